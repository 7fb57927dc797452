//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"keelson.dev/lab/cluster"
)

// site is the running cluster that is judged: the file trees and processes of its nodes, and its API as the administrator, as
// nobody, and as somebody without rights sees it.
type site struct {
	server, worker string // folders: the root of each node's file system
	address        string // of the server
	commands       map[string][]string
	config         *rest.Config
	client         kubernetes.Interface
	restricted     string // a namespace that enforces the restricted Pod Security Standard
}

// rule is one numbered recommendation of the CIS Kubernetes Benchmark v1.11. What upstream's flags say there is looked for in what the
// cluster does, since a Keelson server has no such flags: by its files, its answers, its ports.
type rule struct {
	id, title string
	check     func(context.Context, *site) error
	except    string // why the cluster is otherwise, where it is; the check then proves what holds instead, if there is one
}

func rules() []rule {
	manifests := files(0o600, "server", "/etc/kubernetes/manifests/*")
	cni := files(0o600, "both", "/etc/cni/net.d/*", "/var/lib/cni/*")
	admin := files(0o600, "server", "/etc/kubernetes/admin.conf")
	pki := "/etc/kubernetes/pki"
	return []rule{
		{"1.1.1", "API server specification: mode 600", manifests, ""},
		{"1.1.2", "API server specification: owner root", manifests, ""},
		{"1.1.3", "controller manager specification: mode 600", manifests, ""},
		{"1.1.4", "controller manager specification: owner root", manifests, ""},
		{"1.1.5", "scheduler specification: mode 600", manifests, ""},
		{"1.1.6", "scheduler specification: owner root", manifests, ""},
		{"1.1.7", "etcd specification: mode 600", manifests, ""},
		{"1.1.8", "etcd specification: owner root", manifests, ""},
		{"1.1.9", "pod network files: mode 600", cni, ""},
		{"1.1.10", "pod network files: owner root", cni, ""},
		{"1.1.11", "etcd data folder: mode 700", files(0o700, "server", "/var/lib/keelson"), ""},
		{"1.1.12", "etcd data folder: owner etcd", files(0o700, "server", "/var/lib/keelson"), "etcd runs in the server's process, whose user, root, owns it"},
		{"1.1.13", "administrator's credentials: mode 600", admin, ""},
		{"1.1.14", "administrator's credentials: owner root", admin, ""},
		{"1.1.15", "scheduler.conf: mode 600", files(0o600, "server", "/etc/kubernetes/scheduler.conf"), ""},
		{"1.1.16", "scheduler.conf: owner root", files(0o600, "server", "/etc/kubernetes/scheduler.conf"), ""},
		{"1.1.17", "controller-manager.conf: mode 600", files(0o600, "server", "/etc/kubernetes/controller-manager.conf"), ""},
		{"1.1.18", "controller-manager.conf: owner root", files(0o600, "server", "/etc/kubernetes/controller-manager.conf"), ""},
		{"1.1.19", "PKI folder and files: owner root", files(0o755, "server", pki, pki+"/*", pki+"/*/*"), ""},
		{"1.1.20", "certificates: mode 644", files(0o644, "server", pki+"/*.crt", pki+"/*/*.crt"), ""},
		{"1.1.21", "keys: mode 600", files(0o600, "server", pki+"/*.key", pki+"/*/*.key"), ""},

		{"1.2.1", "no anonymous requests", anonymousRefused, "health checks and version answer anybody, as upstream's do by default; all else is refused"},
		{"1.2.2", "no tokens from a file", withoutFlags("--token-auth-file"), ""},
		{"1.2.3", "DenyServiceExternalIPs", nil, "external IPs are part of the Service API that Keelson promises; --apiserver-arg=--enable-admission-plugins=DenyServiceExternalIPs refuses them"},
		{"1.2.4", "the API server shows kubelets a certificate", kubeletAnswers, ""},
		{"1.2.5", "the API server verifies kubelets", kubeletVerified, ""},
		{"1.2.6", "not everything is allowed", denied("eve", "get", "", "secrets", ""), ""},
		{"1.2.7", "the Node authorizer", nodesSeeTheirOwn, ""},
		{"1.2.8", "RBAC", rbacDecides, ""},
		{"1.2.9", "EventRateLimit", nil, "priority and fairness keeps a flood of events from others' requests"},
		{"1.2.10", "not AlwaysAdmit", violates("privileged", privileged), ""},
		{"1.2.11", "AlwaysPullImages", nil, "a cluster without internet could not start its pods; nodes verify pulls of private images (KEP-2535) instead"},
		{"1.2.12", "ServiceAccount admission", serviceAccountRequired, ""},
		{"1.2.13", "NamespaceLifecycle admission", namespaceRequired, ""},
		{"1.2.14", "NodeRestriction admission", nodeRestricted, ""},
		{"1.2.15", "no profiling", profilingRefused(""), "served on the secured port to those who may get /debug/pprof"},
		{"1.2.16", "an audit log", auditLog, ""},
		{"1.2.17", "audit log kept 30 days", auditLog, ""},
		{"1.2.18", "ten old audit logs", auditLog, ""},
		{"1.2.19", "audit logs of 100 MB", auditLog, ""},
		{"1.2.20", "requests end", nil, "after 60 s, upstream's default; watches after half an hour to an hour"},
		{"1.2.21", "tokens of deleted service accounts are refused", tokensLookedUp, ""},
		{"1.2.22", "service account keys of their own", files(0o600, "server", pki+"/sa.key"), ""},
		{"1.2.23", "the API server shows etcd a certificate", etcdSecured, ""},
		{"1.2.24", "TLS certificate", strongTLS("6443"), ""},
		{"1.2.25", "client authority", files(0o644, "server", pki+"/ca.crt"), ""},
		{"1.2.26", "the API server verifies etcd", etcdSecured, ""},
		{"1.2.27", "encryption at rest", encrypted, ""},
		{"1.2.28", "encryption by aescbc, kms or secretbox", encrypted, ""},
		{"1.2.29", "strong ciphers only", strongTLS("6443"), ""},
		{"1.2.30", "tokens are not extended", nil, "clients that do not reread their token would fail after an hour; upstream's default is the same"},

		{"1.3.1", "terminated pods are collected", nil, "beyond 12,500, upstream's default"},
		{"1.3.2", "no profiling", profilingRefused("10257"), "as for the API server"},
		{"1.3.3", "a service account for each controller", nil, "one process is the whole control plane, and holds the authority's key anyway; cmd/controller-manager has --use-service-account-credentials"},
		{"1.3.4", "service account key", files(0o600, "server", pki+"/sa.key"), ""},
		{"1.3.5", "root authority is published", rootPublished, ""},
		{"1.3.6", "kubelets' serving certificates rotate", servingRotates, ""},
		{"1.3.7", "listens on 127.0.0.1", strongTLS("10257"), "metrics are read from outside; nothing is answered without a certificate or token and the right"},
		{"1.4.1", "no profiling", profilingRefused("10259"), "as for the API server"},
		{"1.4.2", "listens on 127.0.0.1", strongTLS("10259"), "as for the controllers"},

		{"2.1", "etcd has a certificate", etcdSecured, ""},
		{"2.2", "etcd wants clients' certificates", etcdSecured, ""},
		{"2.3", "not a certificate of its own making", etcdSecured, ""},
		{"2.4", "etcd members show certificates", etcdSecured, ""},
		{"2.5", "etcd members want certificates", etcdSecured, ""},
		{"2.6", "not certificates of their own making", etcdSecured, ""},
		{"2.7", "etcd has an authority of its own", etcdAuthority, ""},

		{"3.1.1", "people do not use certificates", nil, "a lab's one user does; --apiserver-arg=--authentication-config brings OpenID Connect"},
		{"3.1.2", "people do not use service accounts", nil, "for the user to keep"},
		{"3.1.3", "people do not use bootstrap tokens", bootstrapTokensOnlyJoin, ""},
		{"3.2.1", "an audit policy", auditLog, ""},
		{"3.2.2", "the policy covers what matters, without contents of secrets", auditCovers, ""},

		{"4.1.1", "kubelet service file: mode 600", files(0o600, "both", "/etc/keelson/*"), ""},
		{"4.1.2", "kubelet service file: owner root", files(0o600, "both", "/etc/keelson/*"), ""},
		{"4.1.3", "proxy's kubeconfig: mode 600", files(0o600, "both", "/etc/kubernetes/bootstrap-kubelet.conf", "/var/lib/kubelet/pki/*"), ""},
		{"4.1.4", "proxy's kubeconfig: owner root", files(0o600, "both", "/etc/kubernetes/bootstrap-kubelet.conf", "/var/lib/kubelet/pki/*"), ""},
		{"4.1.5", "kubelet.conf: mode 600", files(0o600, "both", "/etc/kubernetes/bootstrap-kubelet.conf", "/var/lib/kubelet/pki/*"), ""},
		{"4.1.6", "kubelet.conf: owner root", files(0o600, "both", "/etc/kubernetes/bootstrap-kubelet.conf", "/var/lib/kubelet/pki/*"), ""},
		{"4.1.7", "authority: mode 644", files(0o644, "both", pki+"/ca.crt"), ""},
		{"4.1.8", "authority: owner root", files(0o644, "both", pki+"/ca.crt"), ""},
		{"4.1.9", "kubelet configuration: mode 600", files(0o600, "both", "/etc/keelson/kubelet.yaml"), ""},
		{"4.1.10", "kubelet configuration: owner root", files(0o600, "both", "/etc/keelson/kubelet.yaml"), ""},
		{"4.2.1", "kubelet: no anonymous requests", kubeletRefuses, ""},
		{"4.2.2", "kubelet: not everything is allowed", kubeletAuthorizes, ""},
		{"4.2.3", "kubelet: client authority", kubeletAnswers, ""},
		{"4.2.4", "kubelet: no read-only port", closed("10255"), ""},
		{"4.2.5", "kubelet: idle streams end", configz("streamingConnectionIdleTimeout", func(v any) bool { return v != "0s" }), ""},
		{"4.2.6", "kubelet: iptables chains", nil, "no iptables: the rules are nftables', and the agent keeps them"},
		{"4.2.7", "kubelet: no other host name", nil, "nodes of a lab share the machine's name; the certificate is bound to the node's"},
		{"4.2.8", "kubelet: events are not dropped", configz("eventRecordQPS", func(v any) bool { return v != float64(0) || v == nil }), ""},
		{"4.2.9", "kubelet: TLS certificate", kubeletVerified, ""},
		{"4.2.10", "kubelet: certificates rotate", configz("rotateCertificates", func(v any) bool { return v == true }), ""},
		{"4.2.11", "kubelet: serving certificates rotate", servingRotates, ""},
		{"4.2.12", "kubelet: strong ciphers", strongTLS("10250"), ""},
		{"4.2.13", "kubelet: a limit of processes", configz("podPidsLimit", func(v any) bool { n, ok := v.(float64); return ok && n > 0 }), ""},
		{"4.2.14", "kubelet: seccomp by default", nil, "upstream's default is off, and what people try here must behave as there; pods ask for it with RuntimeDefault"},
		{"4.2.15", "kubelet: IPAddressDeny", nil, "a setting of systemd's units; a lab's nodes have none"},
		{"4.3.1", "proxy: metrics on localhost", closed("10249"), ""},

		{"5.1.1", "cluster-admin only where required", clusterAdmins, ""},
		{"5.1.2", "secrets", denied("eve", "list", "", "secrets", ""), ""},
		{"5.1.3", "no wildcards in roles", wildcards, ""},
		{"5.1.4", "creation of pods", denied("eve", "create", "", "pods", ""), ""},
		{"5.1.5", "default service accounts are not used", defaultAccounts, ""},
		{"5.1.6", "tokens only where necessary", tokensMounted, ""},
		{"5.1.7", "no system:masters", noMasters, "the lab's own kubeconfig (mode 600) is of that group, so that no RBAC can lock its user out, as kubeadm's super-admin.conf"},
		{"5.1.8", "bind, impersonate, escalate", denied("eve", "impersonate", "", "users", ""), ""},
		{"5.1.9", "creation of persistent volumes", denied("eve", "create", "", "persistentvolumes", ""), ""},
		{"5.1.10", "nodes/proxy", denied("eve", "create", "", "nodes", "proxy"), ""},
		{"5.1.11", "approval of certificates", denied("eve", "update", "certificates.k8s.io", "certificatesigningrequests", "approval"), ""},
		{"5.1.12", "webhook configurations", denied("eve", "create", "admissionregistration.k8s.io", "validatingwebhookconfigurations", ""), ""},
		{"5.1.13", "creation of service account tokens", denied("eve", "create", "", "serviceaccounts", "token"), ""},

		{"5.2.1", "a policy mechanism", violates("privileged", privileged), ""},
		{"5.2.2", "privileged containers", violates("privileged", privileged), ""},
		{"5.2.3", "the host's processes", violates("host namespaces", func(p *corev1.Pod) { p.Spec.HostPID = true }), ""},
		{"5.2.4", "the host's IPC", violates("host namespaces", func(p *corev1.Pod) { p.Spec.HostIPC = true }), ""},
		{"5.2.5", "the host's network", violates("host namespaces", func(p *corev1.Pod) { p.Spec.HostNetwork = true }), ""},
		{"5.2.6", "privilege escalation", violates("allowPrivilegeEscalation", security(func(s *corev1.SecurityContext) { s.AllowPrivilegeEscalation = ptr.To(true) })), ""},
		{"5.2.7", "root", violates("runAsNonRoot", security(func(s *corev1.SecurityContext) { s.RunAsNonRoot = nil })), ""},
		{"5.2.8", "NET_RAW", violates("unrestricted capabilities", add("NET_RAW")), ""},
		{"5.2.9", "added capabilities", violates("unrestricted capabilities", add("SYS_ADMIN")), ""},
		{"5.2.10", "capabilities", violates("unrestricted capabilities", security(func(s *corev1.SecurityContext) { s.Capabilities = nil })), ""},
		{"5.2.11", "Windows host processes", violates("hostProcess", security(func(s *corev1.SecurityContext) {
			s.WindowsOptions = &corev1.WindowsSecurityContextOptions{HostProcess: ptr.To(true)}
		})), ""},
		{"5.2.12", "host paths", violates("hostPath", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "h", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		}), ""},
		{"5.2.13", "host ports", violates("hostPort", func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
		}), ""},
		{"5.3.1", "the pod network enforces NetworkPolicies", nil, "it does: proved by the script networkpolicy and by upstream's own tests"},
		{"5.3.2", "every namespace has policies", nil, "for the user to write"},
		{"5.4.1", "secrets as files", secretsAsFiles, ""},
		{"5.4.2", "secrets elsewhere", nil, "for the user to choose; kms is supported"},
		{"5.5.1", "image provenance", nil, "ImagePolicyWebhook is not built; validating webhooks and policies can judge images"},
		{"5.6.1", "namespaces as boundaries", nil, "for the user"},
		{"5.6.2", "seccomp profiles", bundledSeccomp, ""},
		{"5.6.3", "security contexts", bundledSeccomp, ""},
		{"5.6.4", "the default namespace is not used", defaultEmpty, ""},
	}
}

// TestCIS holds the cluster against each recommendation of the benchmark. An exception is printed with its reason.
func TestCIS(t *testing.T) {
	s := newSite(t)
	for _, r := range rules() {
		t.Run(r.id, func(t *testing.T) {
			if r.check == nil && r.except == "" {
				t.Fatal("neither a check nor a reason")
			}
			if r.except != "" {
				t.Logf("%s: exception: %s", r.title, r.except)
			}
			if r.check == nil {
				return
			}
			if err := r.check(t.Context(), s); err != nil {
				t.Errorf("%s: %v", r.title, err)
			}
		})
	}
}

func newSite(t *testing.T) *site {
	s := &site{commands: map[string][]string{}, restricted: fmt.Sprintf("e2e-cis-%d", os.Getpid())}
	c, err := cluster.View(*clusterName, filepath.Dir(keelson))
	must(t, err)
	for name, root := range map[string]*string{"server-1": &s.server, "worker-1": &s.worker} {
		member, err := c.Member(name)
		must(t, err)
		pid, err := c.Node(*member).PID(t.Context())
		must(t, err)
		*root = fmt.Sprintf("/proc/%d/root", pid)
	}
	processes, err := filepath.Glob(s.server + "/proc/[0-9]*/cmdline")
	must(t, err)
	for _, file := range processes {
		if line, err := os.ReadFile(file); err == nil && len(line) > 0 { // it may have ended
			args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
			if len(args) > 1 {
				s.commands[filepath.Base(args[0])+" "+args[1]] = args
			}
		}
	}
	s.config, s.client = clientConfig(t), clientset(t)
	s.address = serverAddress(t)
	labels := map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}
	_, err = s.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.restricted, Labels: labels}}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { _ = kubectl("delete", "namespace", s.restricted, "--wait=false") })
	waitFor(t, time.Minute, func() error {
		_, err := s.client.CoreV1().ServiceAccounts(s.restricted).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return s
}

// files wants every file that the patterns name on the server, or on both kinds of nodes, to be root's and of no more than a mode.
func files(most fs.FileMode, where string, patterns ...string) func(context.Context, *site) error {
	return func(_ context.Context, s *site) error {
		roots := []string{s.server}
		if where == "both" {
			roots = append(roots, s.worker)
		}
		var errs []error
		for _, root := range roots {
			for _, pattern := range patterns {
				found, err := filepath.Glob(root + pattern)
				errs = append(errs, err)
				if len(found) == 0 && !strings.Contains(pattern, "*") {
					errs = append(errs, fmt.Errorf("%s is not there", pattern))
				}
				for _, file := range found {
					errs = append(errs, judge(file, strings.TrimPrefix(file, root), most))
				}
			}
		}
		return errors.Join(errs...)
	}
}

func judge(file, name string, most fs.FileMode) error {
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 0 || stat.Gid != 0 {
		return fmt.Errorf("%s belongs to %d:%d", name, stat.Uid, stat.Gid)
	}
	mode := info.Mode()
	if mode.IsDir() { // what may read a file must be able to enter its folder
		most |= (most & 0o444) >> 2
	}
	if mode&fs.ModeSymlink == 0 && mode.Perm()&^most != 0 {
		return fmt.Errorf("%s has mode %o, more than %o", name, mode.Perm(), most)
	}
	return nil
}

func withoutFlags(flags ...string) func(context.Context, *site) error {
	return func(_ context.Context, s *site) error {
		if len(s.commands["keelson server"]) == 0 {
			return errors.New("no server process found")
		}
		for _, args := range s.commands {
			for _, arg := range args {
				if name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--apiserver-arg="), "="); slices.Contains(flags, name) {
					return fmt.Errorf("%q has %s", args, name)
				}
			}
		}
		return nil
	}
}

// status asks for a URL without verifying who answers, with or without the administrator's certificate.
func (s *site) status(ctx context.Context, known bool, address, path string) (int, error) {
	config := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // who answers is not the question here
	if known {
		pair, err := tls.X509KeyPair(s.config.CertData, s.config.KeyData)
		if err != nil {
			return 0, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+path, nil)
	if err != nil {
		return 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// refused wants paths to be refused to a client without credentials.
func (s *site) refused(ctx context.Context, port string, paths ...string) error {
	for _, path := range paths {
		code, err := s.status(ctx, false, net.JoinHostPort(s.address, port), path)
		if err != nil {
			return err
		}
		if code != http.StatusUnauthorized && code != http.StatusForbidden {
			return fmt.Errorf("anybody's GET %s on port %s: %d", path, port, code)
		}
	}
	return nil
}

func anonymousRefused(ctx context.Context, s *site) error {
	return s.refused(ctx, "6443", "/", "/api", "/apis", "/api/v1/namespaces", "/api/v1/secrets", "/openapi/v2", "/metrics", "/logs", "/debug/pprof/")
}

func profilingRefused(port string) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		if port == "" {
			port = "6443"
		}
		return s.refused(ctx, port, "/debug/pprof/", "/debug/pprof/profile")
	}
}

func kubeletRefuses(ctx context.Context, s *site) error {
	return s.refused(ctx, "10250", "/pods", "/metrics", "/stats/summary", "/logs/", "/run/a/b/c", "/exec/a/b/c", "/configz")
}

// kubeletAnswers proves that the API server is known to the kubelet.
func kubeletAnswers(ctx context.Context, s *site) error {
	_, err := s.client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/server-1/proxy/pods").DoRaw(ctx)
	return err
}

// kubeletAuthorizes shows the kubelet a certificate of the cluster that has no rights there.
func kubeletAuthorizes(ctx context.Context, s *site) error {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "eve", Groups: []string{"system:authenticated"}, ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "nodes", Subresource: "proxy"},
	}}
	answer, err := s.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err == nil && answer.Status.Allowed {
		return errors.New("anybody may use the kubelet's API")
	}
	return err
}

// kubeletVerified wants the kubelet's certificate to be signed by the cluster's authority for the node's address.
func kubeletVerified(ctx context.Context, s *site) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.config.CAData)
	dialer := &tls.Dialer{Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(s.address, "10250"))
	if err != nil {
		return err
	}
	return conn.Close()
}

// strongTLS wants a port to speak TLS 1.2 or later, and no cipher that is known to be weak.
func strongTLS(port string) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		var weak []uint16
		for _, suite := range tls.InsecureCipherSuites() {
			weak = append(weak, suite.ID)
		}
		for what, config := range map[string]*tls.Config{
			"TLS 1.1":      {MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
			"weak ciphers": {MaxVersion: tls.VersionTLS12, CipherSuites: weak},
		} {
			config.InsecureSkipVerify = true
			dialer := &tls.Dialer{Config: config}
			if conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(s.address, port)); err == nil {
				return errors.Join(fmt.Errorf("port %s accepts %s", port, what), conn.Close())
			}
		}
		good := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // only the protocol is in question
		conn, err := good.DialContext(ctx, "tcp", net.JoinHostPort(s.address, port))
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

func closed(port string) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(s.address, port))
		if err != nil {
			return nil //nolint:nilerr // as it should be
		}
		return errors.Join(fmt.Errorf("port %s is open", port), conn.Close())
	}
}

// may asks the authorizer about a user.
func (s *site) may(ctx context.Context, user string, groups []string, verb, group, resource, subresource, namespace, name string) (bool, error) {
	answer, err := s.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: user, Groups: groups, ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: verb, Group: group, Resource: resource, Subresource: subresource, Namespace: namespace, Name: name,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return answer.Status.Allowed, nil
}

func denied(user, verb, group, resource, subresource string) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		for _, groups := range [][]string{{"system:authenticated"}, {"system:unauthenticated"}, {"system:authenticated", "system:serviceaccounts"}} {
			allowed, err := s.may(ctx, user, groups, verb, group, resource, subresource, "", "")
			if err != nil {
				return err
			}
			if allowed {
				return fmt.Errorf("%v may %s %s/%s", groups, verb, resource, subresource)
			}
		}
		return nil
	}
}

func nodesSeeTheirOwn(ctx context.Context, s *site) error {
	groups := []string{"system:nodes", "system:authenticated"}
	if allowed, err := s.may(ctx, "system:node:worker-1", groups, "get", "", "secrets", "", "kube-system", "nobody-mounts-this"); err != nil || allowed {
		return fmt.Errorf("a node may read a secret that no pod of it has: %t, %w", allowed, err)
	}
	if allowed, err := s.may(ctx, "system:node:worker-1", groups, "get", "", "nodes", "", "", "worker-1"); err != nil || !allowed {
		return fmt.Errorf("a node may read itself: %t, %w", allowed, err)
	}
	return nil
}

func rbacDecides(ctx context.Context, s *site) error {
	if allowed, err := s.may(ctx, "system:kube-scheduler", nil, "create", "", "pods", "binding", "default", ""); err != nil || !allowed {
		return fmt.Errorf("the scheduler's default role lets it bind: %t, %w", allowed, err)
	}
	return nil
}

// as is a client that impersonates.
func (s *site) as(user string, groups ...string) (kubernetes.Interface, error) {
	config := rest.CopyConfig(s.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return kubernetes.NewForConfig(config)
}

func nodeRestricted(ctx context.Context, s *site) error {
	node, err := s.as("system:node:worker-1", "system:nodes", "system:authenticated")
	if err != nil {
		return err
	}
	patch := []byte(`{"metadata":{"labels":{"node-restriction.kubernetes.io/a":"b"}}}`)
	for _, name := range []string{"worker-1", "worker-2"} {
		_, err := node.CoreV1().Nodes().Patch(ctx, name, "application/merge-patch+json", patch, metav1.PatchOptions{DryRun: []string{"All"}})
		if err == nil || !strings.Contains(err.Error(), "forbidden") {
			return fmt.Errorf("a node labels %s: %w", name, err)
		}
	}
	return nil
}

// decent is a pod that the restricted standard admits.
func decent(namespace string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: namespace},
		Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{Name: "c", Image: "i", SecurityContext: &corev1.SecurityContext{
				RunAsNonRoot: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			}}},
		},
	}
}

func privileged(p *corev1.Pod) {
	security(func(s *corev1.SecurityContext) { s.Privileged, s.AllowPrivilegeEscalation = ptr.To(true), nil })(p)
}

func security(change func(*corev1.SecurityContext)) func(*corev1.Pod) {
	return func(p *corev1.Pod) { change(p.Spec.Containers[0].SecurityContext) }
}

func add(capability corev1.Capability) func(*corev1.Pod) {
	return security(func(s *corev1.SecurityContext) { s.Capabilities.Add = []corev1.Capability{capability} })
}

// violates wants a namespace with the restricted standard to refuse a pod, for a reason, that it admits without one change.
func violates(reason string, change func(*corev1.Pod)) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		dry := metav1.CreateOptions{DryRun: []string{"All"}}
		if _, err := s.client.CoreV1().Pods(s.restricted).Create(ctx, decent(s.restricted), dry); err != nil {
			return err
		}
		pod := decent(s.restricted)
		change(pod)
		if _, err := s.client.CoreV1().Pods(s.restricted).Create(ctx, pod, dry); err == nil || !strings.Contains(err.Error(), reason) {
			return fmt.Errorf("want a refusal because of %s, got %w", reason, err)
		}
		return nil
	}
}

func serviceAccountRequired(ctx context.Context, s *site) error {
	pod := decent(s.restricted)
	pod.Spec.ServiceAccountName = "absent"
	_, err := s.client.CoreV1().Pods(s.restricted).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{"All"}})
	if err == nil || !strings.Contains(err.Error(), `serviceaccount "absent" not found`) {
		return fmt.Errorf("a pod of an absent service account: %w", err)
	}
	return nil
}

func namespaceRequired(ctx context.Context, s *site) error {
	_, err := s.client.CoreV1().Pods("absent").Create(ctx, decent("absent"), metav1.CreateOptions{DryRun: []string{"All"}})
	if err == nil || !strings.Contains(err.Error(), `namespaces "absent" not found`) {
		return fmt.Errorf("a pod in an absent namespace: %w", err)
	}
	return nil
}

// auditLog wants requests to be logged, in a file of root's alone.
func auditLog(ctx context.Context, s *site) error {
	_, err := s.audited(ctx)
	return err
}

// audited makes a request and returns its line in the audit log.
func (s *site) audited(ctx context.Context) (string, error) {
	found, err := filepath.Glob(s.server + "/var/log/keelson/audit.log")
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("one audit log is wanted, there are %q: %w", found, err)
	}
	if err := judge(found[0], strings.TrimPrefix(found[0], s.server), 0o600); err != nil {
		return "", err
	}
	name := fmt.Sprintf("seen-%d", time.Now().UnixNano())
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"a": "not-to-be-logged"}}
	if _, err := s.client.CoreV1().Secrets(s.restricted).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return "", err
	}
	line := ""
	return line, repeat(30*time.Second, func() error {
		log, err := os.ReadFile(found[0])
		if err != nil {
			return err
		}
		for l := range strings.Lines(string(log)) {
			if strings.Contains(l, name) {
				line = l
				return nil
			}
		}
		return fmt.Errorf("no line of %s", name)
	})
}

func auditCovers(ctx context.Context, s *site) error {
	line, err := s.audited(ctx)
	if err == nil && (strings.Contains(line, "not-to-be-logged") || strings.Contains(line, "bm90LXRvLWJlLWxvZ2dlZA")) {
		return errors.New("the audit log holds a secret's contents")
	}
	return err
}

// tokensLookedUp wants the token of a service account that is gone to be refused.
func tokensLookedUp(ctx context.Context, s *site) error {
	accounts := s.client.CoreV1().ServiceAccounts(s.restricted)
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "leaver"}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	out, err := kubectlCommand("create", "token", "leaver", "-n", s.restricted).Output()
	if err != nil {
		return err
	}
	config := rest.AnonymousClientConfig(s.config)
	config.BearerToken = string(out)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ask := func() error {
		_, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/", Verb: "get"}},
		}, metav1.CreateOptions{})
		return err
	}
	if err := ask(); err != nil {
		return err
	}
	if err := accounts.Delete(ctx, "leaver", metav1.DeleteOptions{}); err != nil {
		return err
	}
	return repeat(30*time.Second, func() error {
		if ask() == nil {
			return errors.New("its token still works")
		}
		return nil
	})
}

// etcdSecured wants etcd to be reachable only with a certificate of its own authority, on whatever port it listens.
func etcdSecured(ctx context.Context, s *site) error {
	var reached []string
	for _, port := range []string{"2379", "2380"} {
		dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}} //nolint:gosec // a client without a certificate
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(s.address, port))
		if err != nil {
			continue
		}
		// In TLS 1.3 a client learns that its certificate is wanted with the first read.
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "certificate required") {
			reached = append(reached, fmt.Sprintf("%s (%v)", port, err))
		}
		_ = conn.Close()
	}
	if len(reached) > 0 {
		return fmt.Errorf("etcd answers without a certificate: %q", reached)
	}
	return nil
}

func etcdAuthority(_ context.Context, s *site) error {
	subjects := map[string]bool{}
	for _, name := range []string{"ca.crt", "etcd/ca.crt"} {
		cert, err := certificate(s.server + "/etc/kubernetes/pki/" + name)
		if err != nil {
			return err
		}
		subjects[string(cert.RawSubjectPublicKeyInfo)] = true
	}
	if len(subjects) != 2 {
		return errors.New("etcd shares the cluster's authority")
	}
	return nil
}

func certificate(file string) (*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

// encrypted looks for a secret in etcd's files.
func encrypted(ctx context.Context, s *site) error {
	const known = "cis-secret-in-the-clear"
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "rest-"}, StringData: map[string]string{"a": known}}
	if _, err := s.client.CoreV1().Secrets(s.restricted).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return err
	}
	found := false
	err := filepath.WalkDir(s.server+"/var/lib/keelson", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || found {
			return nil //nolint:nilerr // files come and go
		}
		if filepath.Ext(path) == ".wal" || filepath.Base(path) == "db" {
			data, err := os.ReadFile(path)
			found = err == nil && strings.Contains(string(data), known)
		}
		return nil
	})
	if found {
		return errors.New("the value of a secret is in etcd's files as it is")
	}
	return err
}

func rootPublished(ctx context.Context, s *site) error {
	_, err := s.client.CoreV1().ConfigMaps("kube-system").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
	return err
}

func servingRotates(ctx context.Context, s *site) error {
	return configz("serverTLSBootstrap", func(v any) bool { return v == true })(ctx, s)
}

// bootstrapTokensOnlyJoin wants a token that lets nodes join to allow nothing else.
func bootstrapTokensOnlyJoin(ctx context.Context, s *site) error {
	groups := []string{"system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"}
	for _, resource := range []string{"pods", "secrets", "nodes"} {
		if allowed, err := s.may(ctx, "system:bootstrap:abcdef", groups, "list", "", resource, "", "", ""); err != nil || allowed {
			return fmt.Errorf("a bootstrap token may list %s: %t, %w", resource, allowed, err)
		}
	}
	return nil
}

// clusterAdmins wants nobody to be cluster-admin but the groups of administrators.
func clusterAdmins(ctx context.Context, s *site) error {
	bindings, err := s.client.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, b := range bindings.Items {
		for _, subject := range b.Subjects {
			if b.RoleRef.Name == "cluster-admin" && !slices.Contains([]string{"system:masters", "kubeadm:cluster-admins"}, subject.Name) && !strings.HasPrefix(b.Name, "e2e-") {
				return fmt.Errorf("%s makes %s %s a cluster-admin", b.Name, subject.Kind, subject.Name)
			}
		}
	}
	return nil
}

// wildcards wants no role but upstream's own to allow everything of something to a human or a pod.
func wildcards(ctx context.Context, s *site) error {
	roles, err := s.client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, role := range roles.Items {
		if role.Labels["kubernetes.io/bootstrapping"] == "rbac-defaults" || strings.HasPrefix(role.Name, "e2e-") {
			continue
		}
		if slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.Verbs, "*") || slices.Contains(r.Resources, "*") || slices.Contains(r.APIGroups, "*")
		}) {
			return fmt.Errorf("%s has a wildcard", role.Name)
		}
	}
	return nil
}

// bundled are the pods that Keelson itself brings.
func (s *site) bundled(ctx context.Context) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	for _, namespace := range []string{"kube-system", "demo"} {
		list, err := s.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		pods = append(pods, list.Items...)
	}
	if len(pods) < 2 {
		return nil, fmt.Errorf("only %d bundled pods", len(pods))
	}
	return pods, nil
}

func defaultAccounts(ctx context.Context, s *site) error {
	groups := []string{"system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"}
	for _, resource := range []string{"pods", "secrets", "configmaps", "services"} {
		if allowed, err := s.may(ctx, "system:serviceaccount:default:default", groups, "list", "", resource, "", "default", ""); err != nil || allowed {
			return fmt.Errorf("the default service account may list %s: %t, %w", resource, allowed, err)
		}
	}
	return nil
}

func tokensMounted(ctx context.Context, s *site) error {
	pods, err := s.bundled(ctx)
	for _, p := range pods {
		if p.Spec.ServiceAccountName == "default" && (p.Spec.AutomountServiceAccountToken == nil || *p.Spec.AutomountServiceAccountToken) {
			return fmt.Errorf("%s/%s has a token and no need of it", p.Namespace, p.Name)
		}
	}
	return err
}

func noMasters(_ context.Context, s *site) error {
	info, err := os.Stat(kubeconfig())
	if err == nil && info.Mode().Perm() != 0o600 {
		return fmt.Errorf("%s has mode %o", kubeconfig(), info.Mode().Perm())
	}
	return err
}

func secretsAsFiles(ctx context.Context, s *site) error {
	pods, err := s.bundled(ctx)
	for _, p := range pods {
		for _, c := range p.Spec.Containers {
			for _, e := range c.Env {
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
					return fmt.Errorf("%s/%s has a secret in its environment", p.Namespace, p.Name)
				}
			}
		}
	}
	return err
}

// bundledSeccomp wants our own pods to run under the runtime's profile, and not to gain privileges.
func bundledSeccomp(ctx context.Context, s *site) error {
	pods, err := s.bundled(ctx)
	for _, p := range pods {
		for _, c := range p.Spec.Containers {
			profile := c.SecurityContext != nil && c.SecurityContext.SeccompProfile != nil ||
				p.Spec.SecurityContext != nil && p.Spec.SecurityContext.SeccompProfile != nil
			if !profile || c.SecurityContext == nil || !ptr.Equal(c.SecurityContext.AllowPrivilegeEscalation, ptr.To(false)) {
				return fmt.Errorf("%s/%s, container %s: no seccomp profile, or may gain privileges", p.Namespace, p.Name, c.Name)
			}
		}
	}
	return err
}

func defaultEmpty(ctx context.Context, s *site) error {
	deployments, err := s.client.AppsV1().Deployments(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err == nil && len(deployments.Items) > 0 {
		return fmt.Errorf("%s is in the default namespace", deployments.Items[0].Name)
	}
	return err
}

// configz reads a setting of a running kubelet.
func configz(field string, good func(any) bool) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		data, err := s.client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/worker-1/proxy/configz").DoRaw(ctx)
		if err != nil {
			return err
		}
		var answer struct {
			Config map[string]any `json:"kubeletconfig"`
		}
		if err := json.Unmarshal(data, &answer); err != nil {
			return err
		}
		if v := answer.Config[field]; !good(v) {
			return fmt.Errorf("%s is %v", field, v)
		}
		return nil
	}
}
