package interop

import (
	"keelson.dev/lab/images"
	"keelson.dev/lab/node"
	"keelson.dev/lab/supervisor"
)

// Origin is whose a part of a cluster is.
type Origin string

// Ours are built from this repository; Upstream's are what conformance/upstream.sh has built; Debian's what hack/debian-runtime.sh has taken
// from its packages.
const (
	Ours     Origin = "ours"
	Upstream Origin = "upstream"
	Debian   Origin = "debian"
)

// Mix says whose each part of a cluster is. The database is upstream's etcd in each. The container runtime is the containerd and runc that
// this repository bundles, or an older containerd of Debian's with crun.
type Mix struct {
	APIServer, Controllers, Scheduler, Kubelet, Proxy, Runtime Origin
}

// part is a program in either make, with the flags that both take and those that only upstream's needs.
type part struct {
	name           string
	ours, upstream string
	origin         func(Mix) Origin
	flags          []string
	upstreamFlags  []string
}

// program is the part's program and command line in that mix.
func (p part) service(mix Mix) supervisor.Service {
	args := append([]string{node.ProgramDir + "/" + p.ours}, p.flags...)
	if p.origin(mix) == Upstream {
		args = append([]string{node.ProgramDir + "/upstream/" + p.upstream}, p.flags...)
		args = append(args, p.upstreamFlags...)
	}
	return supervisor.Service{Name: p.name, Args: args, Log: "/var/log/" + p.name + ".log"}
}

// Paths inside the node.
const (
	pkiDir           = "/etc/kubernetes/pki"
	configDir        = "/etc/kubernetes"
	containerdConfig = "/etc/containerd/config.toml"
	containerdSocket = "/run/containerd/containerd.sock"
	certsDir         = "/etc/containerd/certs.d"
	cniDir           = "/etc/cni/net.d"
)

// Addresses of pods and services.
const (
	podCIDR     = "10.244.0.0/16"
	nodePodCIDR = "10.244.0.0/24" // of the only node
	serviceCIDR = "10.96.0.0/16"
	domain      = "cluster.local"
)

func runtimeServices(mix Mix) []supervisor.Service {
	etcd := pkiDir + "/etcd/"
	containerd := []string{node.ProgramDir + "/containerd"}
	if mix.Runtime == Debian { // which looks for its shim in the path
		containerd = []string{"/usr/bin/env", "PATH=" + debianDir + ":/usr/sbin:/usr/bin:/sbin:/bin", debianDir + "/containerd"}
	}
	return []supervisor.Service{
		{Name: "containerd", Log: "/var/log/containerd.log", Args: append(containerd, "--config", containerdConfig, "--log-level", "warn")},
		{Name: "etcd", Log: "/var/log/etcd.log", Args: []string{
			node.ProgramDir + "/upstream/etcd", "--data-dir=/var/lib/keelson/etcd", "--unsafe-no-fsync",
			"--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379",
			"--listen-peer-urls=https://127.0.0.1:2380", "--initial-advertise-peer-urls=https://127.0.0.1:2380",
			"--initial-cluster=default=https://127.0.0.1:2380",
			"--cert-file=" + etcd + "server.crt", "--key-file=" + etcd + "server.key",
			"--client-cert-auth", "--trusted-ca-file=" + etcd + "ca.crt",
			"--peer-cert-file=" + etcd + "peer.crt", "--peer-key-file=" + etcd + "peer.key",
			"--peer-client-cert-auth", "--peer-trusted-ca-file=" + etcd + "ca.crt",
		}},
	}
}

// parts are the programs of a cluster, in the order of their start. All of one kind are started with the same flags: a manifest that
// was written for upstream's starts ours.
func parts(address string) []part {
	config := func(name string) string { return configDir + "/" + name + ".conf" }
	pki := func(name string) string { return pkiDir + "/" + name }
	identified := func(name string) []string {
		return []string{"--authentication-kubeconfig=" + config(name), "--authorization-kubeconfig=" + config(name), "--bind-address=127.0.0.1"}
	}
	return []part{
		{
			name: "apiserver", ours: "apiserver", upstream: "kube-apiserver",
			origin: func(m Mix) Origin { return m.APIServer },
			flags: []string{
				"--advertise-address=" + address, "--secure-port=6443", "--allow-privileged=true",
				"--etcd-servers=https://127.0.0.1:2379", "--etcd-cafile=" + pki("etcd/ca.crt"),
				"--etcd-certfile=" + pki("apiserver-etcd-client.crt"), "--etcd-keyfile=" + pki("apiserver-etcd-client.key"),
				"--service-cluster-ip-range=" + serviceCIDR, "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
				"--enable-bootstrap-token-auth=true", "--client-ca-file=" + pki("ca.crt"),
				"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
				"--kubelet-certificate-authority=" + pki("ca.crt"),
				"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"),
				"--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
				"--kubelet-preferred-address-types=InternalIP,Hostname",
				"--service-account-issuer=https://kubernetes.default.svc." + domain,
				"--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
				"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
				"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
				"--requestheader-extra-headers-prefix=X-Remote-Extra-",
				"--proxy-client-cert-file=" + pki("front-proxy-client.crt"), "--proxy-client-key-file=" + pki("front-proxy-client.key"),
			},
		},
		{
			name: "controller-manager", ours: "controller-manager", upstream: "kube-controller-manager",
			origin: func(m Mix) Origin { return m.Controllers },
			flags: []string{
				"--kubeconfig=" + config("controller-manager"), "--leader-elect=true", "--root-ca-file=" + pki("ca.crt"),
				"--service-account-private-key-file=" + pki("sa.key"), "--cluster-signing-cert-file=" + pki("ca.crt"),
				"--cluster-signing-key-file=" + pki("ca.key"), "--cluster-cidr=" + podCIDR, "--service-cluster-ip-range=" + serviceCIDR,
				"--use-service-account-credentials=true",
			},
			upstreamFlags: append(identified("controller-manager"), "--allocate-node-cidrs=true"),
		},
		{
			name: "scheduler", ours: "scheduler", upstream: "kube-scheduler",
			origin:        func(m Mix) Origin { return m.Scheduler },
			flags:         []string{"--kubeconfig=" + config("scheduler"), "--leader-elect=true"},
			upstreamFlags: identified("scheduler"),
		},
		{
			name: "kubelet", ours: "kubelet-lite", upstream: "kubelet",
			origin: func(m Mix) Origin { return m.Kubelet },
			flags: []string{
				"--kubeconfig=" + config("kubelet"), "--bootstrap-kubeconfig=" + config("bootstrap-kubelet"),
				"--config=" + configDir + "/kubelet.yaml", "--hostname-override=" + NodeName, "--node-ip=" + address,
			},
		},
		{
			name: "proxy", ours: "proxy-lite", upstream: "kube-proxy",
			origin: func(m Mix) Origin { return m.Proxy },
			flags: []string{
				"--kubeconfig=" + config("proxy"), "--hostname-override=" + NodeName, "--cluster-cidr=" + podCIDR,
			},
			// The table of connections belongs to the machine: its size is not the node's to set.
			upstreamFlags: []string{
				"--proxy-mode=nftables", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
			},
		},
	}
}

// kubeletConfiguration serves either kubelet.
const kubeletConfiguration = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: ` + pkiDir + `/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: ` + pkiDir + `/kubelet.crt
tlsPrivateKeyFile: ` + pkiDir + `/kubelet.key
cgroupDriver: cgroupfs
clusterDomain: ` + domain + `
clusterDNS: [10.96.0.10] # nobody answers there: the scripts go by addresses
containerRuntimeEndpoint: unix://` + containerdSocket + `
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
syncFrequency: 10s
evictionHard: {memory.available: 100Mi, nodefs.available: 500Mi, nodefs.inodesFree: 1%, imagefs.available: 500Mi, imagefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`

// debianDir is where a node finds what hack/debian-runtime.sh has taken from Debian's packages.
const debianDir = node.ProgramDir + "/debian"

// debianRuntime is the configuration of Debian's containerd, an older series than the bundled one, with crun in place of runc.
const debianRuntime = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "` + containerdSocket + `"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + images.Pause + `"
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "` + debianDir + `/cni"
    conf_dir = "` + cniDir + `"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "` + certsDir + `"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "crun"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
        BinaryName = "/usr/bin/crun"
        Root = "/run/containerd/crun"
`

// cniConfiguration is what an administrator writes on a cluster of one node.
const cniConfiguration = `{"cniVersion": "1.0.0", "name": "interop", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "/var/lib/cni",
    "ranges": [[{"subnet": "` + nodePodCIDR + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables", "snat": true}]}
`
