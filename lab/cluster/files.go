package cluster

import (
	"crypto/x509"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keelson.dev/internal/bootstraptoken"
	"keelson.dev/internal/kubeconfig"
	"keelson.dev/internal/pki"
	"keelson.dev/internal/serverpool"
	"keelson.dev/lab/containerd"
	"keelson.dev/lab/images"
	"keelson.dev/lab/node"
	"keelson.dev/lab/supervisor"
)

// Paths inside a node.
const (
	pkiDir            = "/etc/kubernetes/pki"
	bootstrapConfig   = "/etc/kubernetes/bootstrap-kubelet.conf"
	kubeletConfig     = "/etc/keelson/kubelet.yaml"
	joinToken         = "/etc/keelson/join-token"
	registryAuthority = "/etc/containerd/registry-ca.crt"
	containerdConfig  = "/etc/containerd/config.toml"
	containerdSocket  = "/run/containerd/containerd.sock"
	certsDir          = "/etc/containerd/certs.d"
	cniConfDir        = "/etc/cni/net.d"
	controlPlaneTaint = "node-role.kubernetes.io/control-plane=:NoSchedule"
)

// A dead node should be noticed while somebody looks on. Upstream sends a heartbeat each 10 s and gives a node up after five that did
// not come; so does a lab, at intervals of 3 s: nothing slows down enough on a loaded machine to miss five in a row.
const (
	leaseSeconds     = "12" // four heartbeats
	nodeMonitorGrace = "15s"
)

// registryPort is where the machine's registry listens on each cluster's gateway address.
const registryPort = "5000"

func (c *Cluster) registryAddress() string {
	return net.JoinHostPort(c.network().Gateway().String(), registryPort)
}

// PKIDir is the folder of the cluster's authorities on the machine; servers hold copies of what they need.
func (c *Cluster) PKIDir() string { return filepath.Join(c.dir(), "pki") }

// authority is the certificate of the cluster's authority, as PEM.
func (c *Cluster) authority() ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(c.PKIDir(), "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read cluster authority: %w", err)
	}
	return data, nil
}

// writeServerFiles gives a server node its certificates.
func (c *Cluster) writeServerFiles(m Member) error {
	services, err := netip.ParsePrefix(c.ServiceCIDR)
	if err != nil {
		return fmt.Errorf("service CIDR: %w", err)
	}
	target := c.Node(m).StatePath(pkiDir)
	for _, name := range pki.Shared {
		if err := copyFile(filepath.Join(c.PKIDir(), name), filepath.Join(target, name)); err != nil {
			return err
		}
	}
	return pki.EnsureServer(target, pki.Server{
		Name: m.Name, DNSDomain: c.DNSDomain,
		IPs: []net.IP{m.Address.AsSlice(), services.Masked().Addr().Next().AsSlice()},
	}, time.Now())
}

// nearest are the URLs of all servers as a node should try them: its own first.
func (c *Cluster) nearest(m Member) []string {
	if m.Role == Server {
		return append([]string{m.apiServer()}, c.apiServers(m.Name)...)
	}
	return c.apiServers(m.Name)
}

// kubeletSettings are what differs from upstream's defaults in a lab. All nodes share the machine's disk with everything else on it, so
// what is free as a share of it says nothing: nodes evict when it is really about to be full, and keep their images. Whether the
// machine swaps is not theirs to say. A fork bomb in a pod must not take the machine with it.
const kubeletSettings = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
evictionHard:
  memory.available: 100Mi
  nodefs.available: 500Mi
  nodefs.inodesFree: 1%
  imagefs.available: 500Mi
  imagefs.inodesFree: 1%
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
failSwapOn: false
podPidsLimit: 4096
`

// writeNodeFiles gives any node what its agent and its runtime start from.
func (c *Cluster) writeNodeFiles(m Member) error {
	n := c.Node(m)
	authority, err := c.authority()
	if err != nil {
		return err
	}
	if err := writeFile(n.StatePath(registryAuthority), authority, 0o644); err != nil {
		return err
	}
	if !m.Invited {
		if err := c.writeIdentity(m, authority); err != nil {
			return err
		}
	}
	if err := writeFile(n.StatePath(kubeletConfig), []byte(kubeletSettings), 0o600); err != nil {
		return err
	}
	return containerd.Write(filepath.Join(n.Dir, "state"), containerdConfig, containerd.Config{
		Root: "/var/lib/containerd", State: "/run/containerd", Socket: containerdSocket, ProgramDir: node.ProgramDir,
		PauseImage: images.Pause, CNIConfDir: cniConfDir, CertsDir: certsDir, RestrictOOMScore: !containerd.MayLowerOOMScore(),
	}, containerd.Mirror{URL: "https://" + c.registryAddress(), CAFile: registryAuthority})
}

// writeIdentity gives a node what it would otherwise get by its invitation.
func (c *Cluster) writeIdentity(m Member, authority []byte) error {
	if err := writeFile(c.Node(m).StatePath(pkiDir+"/ca.crt"), authority, 0o644); err != nil {
		return err
	}
	return kubeconfig.Write(c.Node(m).StatePath(bootstrapConfig), kubeconfig.Entry{
		Name: c.Name, User: "kubelet-bootstrap", Server: c.nearest(m)[0], CAPEM: authority, Token: c.BootstrapToken,
	})
}

// services is what a node's first process keeps running, in order.
func (c *Cluster) services(m Member) ([]supervisor.Service, error) {
	list := []supervisor.Service{{
		Name: "containerd", Log: "/var/log/containerd.log",
		Args: []string{node.ProgramDir + "/containerd", "--config", containerdConfig, "--log-level", "warn"},
	}}
	agent := []string{
		node.ProgramDir + "/keelson", "agent", "--node-name", m.Name, "--node-ip", m.Address.String(),
		"--bootstrap-kubeconfig", bootstrapConfig, "--config", kubeletConfig, "--cluster-dns", c.DNSAddress, "--cluster-domain", c.DNSDomain,
		"--cluster-cidr", c.PodCIDR, "--container-runtime-endpoint", "unix://" + containerdSocket,
		"--node-lease-duration-seconds", leaseSeconds, "--server", strings.Join(c.nearest(m), ","),
	}
	var invitation []string
	if m.Invited {
		authority, err := c.authority()
		if err != nil {
			return nil, err
		}
		hash, err := bootstraptoken.HashPEM(authority)
		if err != nil {
			return nil, err
		}
		invitation = []string{"--token-file", joinToken, "--ca-hash", hash}
		agent = append(agent, invitation...)
	}
	if m.Role == Server {
		joins := invitation
		if !m.Invited {
			joins = []string{"--bootstrap-token-file", bootstrapConfig}
		}
		if m.Joins {
			joins = append(joins, "--join", strings.Join(c.apiServers(m.Name), ","))
		}
		etcd, err := c.etcdArgs(m)
		if err != nil {
			return nil, err
		}
		list = append(list, supervisor.Service{
			Name: "server", Log: "/var/log/keelson-server.log",
			Args: slices.Concat([]string{
				node.ProgramDir + "/keelson", "server", "--node-name", m.Name, "--advertise-address", m.Address.String(),
				"--cluster-cidr", c.PodCIDR, "--service-cidr", c.ServiceCIDR, "--cluster-domain", c.DNSDomain,
				"--node-monitor-grace-period", nodeMonitorGrace,
				"--load-balancer-cidr", c.network().LoadBalancers().String(),
			}, joins, etcd, c.ServerArgs),
		})
		if len(c.Members) > len(c.servers()) {
			agent = append(agent, "--register-with-taints", controlPlaneTaint)
		}
	}
	return append(list, supervisor.Service{Name: "agent", Log: "/var/log/keelson-agent.log", Args: append(agent, c.AgentArgs...)}), nil
}

// adminEntry is the kubeconfig entry of the cluster's first administrator.
func (c *Cluster) adminEntry() (kubeconfig.Entry, error) {
	pair, err := pki.EnsureClient(c.PKIDir(), "admin",
		pki.Request{CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}}, time.Now())
	if err != nil {
		return kubeconfig.Entry{}, err
	}
	caPEM, err := c.authority()
	if err != nil {
		return kubeconfig.Entry{}, err
	}
	entry := kubeconfig.Entry{Name: c.Name, Server: c.APIServer(), CAPEM: caPEM, CertPEM: pair.CertPEM, KeyPEM: pair.KeyPEM}
	if c.Balanced {
		entry.ServerName = serverpool.ServerName
	}
	return entry, nil
}

// registryPair is the certificate of the registry on this cluster's network.
func (c *Cluster) registryPair() error {
	_, err := pki.EnsureClient(c.PKIDir(), "registry", pki.Request{
		CommonName: "registry", IPs: []net.IP{c.network().Gateway().AsSlice(), net.IPv4(127, 0, 0, 1)},
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, time.Now())
	return err
}

// copyFile copies a file with its mode; the parent folder is made.
func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	return writeFile(to, data, info.Mode().Perm())
}

// writeFile makes the parent folder too.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
