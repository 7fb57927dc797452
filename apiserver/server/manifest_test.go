package server_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/apiserver/server"
)

// kubeadmFlags are those of the static pod that kubeadm 1.37 writes, with its directory of keys as PKI and its etcd as ETCD.
const kubeadmFlags = `
--advertise-address=192.0.2.1
--allow-privileged=true
--authorization-mode=Node,RBAC
--client-ca-file=PKI/ca.crt
--enable-admission-plugins=NodeRestriction
--enable-bootstrap-token-auth=true
--etcd-cafile=ETCDPKI/etcd/ca.crt
--etcd-certfile=ETCDPKI/apiserver-etcd-client.crt
--etcd-keyfile=ETCDPKI/apiserver-etcd-client.key
--etcd-servers=ETCD
--kubelet-client-certificate=PKI/apiserver-kubelet-client.crt
--kubelet-client-key=PKI/apiserver-kubelet-client.key
--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname
--proxy-client-cert-file=PKI/front-proxy-client.crt
--proxy-client-key-file=PKI/front-proxy-client.key
--requestheader-allowed-names=front-proxy-client
--requestheader-client-ca-file=PKI/front-proxy-ca.crt
--requestheader-extra-headers-prefix=X-Remote-Extra-
--requestheader-group-headers=X-Remote-Group
--requestheader-username-headers=X-Remote-User
--secure-port=6443
--service-account-issuer=https://kubernetes.default.svc.cluster.local
--service-account-key-file=PKI/sa.pub
--service-account-signing-key-file=PKI/sa.key
--service-cluster-ip-range=10.96.0.0/16
--tls-cert-file=PKI/apiserver.crt
--tls-private-key-file=PKI/apiserver.key`

// byHandFlags are those of the well-known walk-through that sets a cluster up without tools.
const byHandFlags = `
--advertise-address=192.0.2.1
--allow-privileged=true
--apiserver-count=1
--audit-log-maxage=30
--audit-log-maxbackup=3
--audit-log-maxsize=100
--audit-log-path=DIR/audit.log
--authorization-mode=Node,RBAC
--bind-address=0.0.0.0
--client-ca-file=PKI/ca.crt
--enable-admission-plugins=NamespaceLifecycle,NodeRestriction,LimitRanger,ServiceAccount,DefaultStorageClass,ResourceQuota
--etcd-cafile=ETCDPKI/etcd/ca.crt
--etcd-certfile=ETCDPKI/apiserver-etcd-client.crt
--etcd-keyfile=ETCDPKI/apiserver-etcd-client.key
--etcd-servers=ETCD
--event-ttl=1h
--encryption-provider-config=DIR/encryption.yaml
--kubelet-certificate-authority=PKI/ca.crt
--kubelet-client-certificate=PKI/apiserver-kubelet-client.crt
--kubelet-client-key=PKI/apiserver-kubelet-client.key
--runtime-config=api/all=true
--service-account-key-file=PKI/sa.pub
--service-account-signing-key-file=PKI/sa.key
--service-account-issuer=https://server.kubernetes.local:6443
--service-cluster-ip-range=10.32.0.0/24
--service-node-port-range=30000-32767
--tls-cert-file=PKI/apiserver.crt
--tls-private-key-file=PKI/apiserver.key`

// TestUpstreamsManifestsStartThisServer starts a server by command lines that were written for kube-apiserver.
func TestUpstreamsManifestsStartThisServer(t *testing.T) {
	for name, c := range map[string]struct{ flags, serviceIP string }{
		"kubeadm": {kubeadmFlags, "10.96.0.1"}, "by hand": {byHandFlags, "10.32.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, dir := newEtcd(t), t.TempDir()
			write(t, dir+"/encryption.yaml", encryptionHead+encrypt("secrets", provider("aescbc", "key1"), "{identity: {}}"))
			s := newServer(t, dir, func(o *server.Options) {
				text := strings.NewReplacer("ETCDPKI", store.dir, "ETCD", store.endpoint, "PKI", dir+"/pki", "DIR", dir).Replace(c.flags)
				listener := o.Listener
				*o = *server.NewOptions()
				flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
				o.AddFlags(flags)
				if err := flags.Parse(strings.Fields(text)); err != nil {
					t.Fatal(err)
				}
				o.Listener = listener
			})
			service := must(s.client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{}))(t)
			if service.Spec.ClusterIP != c.serviceIP {
				t.Errorf("the service kubernetes has %s", service.Spec.ClusterIP)
			}
			if code, body := s.raw(t, http.MethodGet, "/livez?verbose", "", "", ""); code != http.StatusOK {
				t.Error(body)
			}
		})
	}
}
