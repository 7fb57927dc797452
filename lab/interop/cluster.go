package interop

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/bootstraptoken"
	"keelson.dev/internal/kubeconfig"
	"keelson.dev/internal/pki"
	"keelson.dev/lab/containerd"
	"keelson.dev/lab/images"
	"keelson.dev/lab/network"
	"keelson.dev/lab/node"
	"keelson.dev/lab/registry"
	"keelson.dev/lab/supervisor"
)

// NodeName is the node of a cluster.
const NodeName = "node-1"

// home holds the files of the cluster on the machine: on a real file system, and with a short path.
const home = "/var/tmp/keelson-interop"

// Cluster is a cluster of one node that holds every part. A machine has one at a time.
type Cluster struct {
	node     *node.Node
	link     network.Network
	token    string // by which the kubelet joins
	services []supervisor.Service
	lock     *os.File
	registry func() error // ends it
}

// Start brings up a cluster of that mix from the programs in bin, and returns once its node is Ready. It waits while there is another
// one. Even if it fails, Stop must be called.
func Start(ctx context.Context, bin string, mix Mix) (*Cluster, error) {
	c := &Cluster{node: &node.Node{Name: NodeName, Cluster: "interop", Dir: filepath.Join(home, "nodes", NodeName), Bundle: bin}}
	c.link.Cluster = c.node.Cluster
	for _, step := range []func(context.Context) error{
		c.claimHome, c.remove /* what a killed run has left */, c.connect, c.writeFiles, c.serveImages,
	} {
		if err := step(ctx); err != nil {
			return c, err
		}
	}
	if mix.Runtime == Debian {
		if err := writeFile(c.node.StatePath(containerdConfig), []byte(debianRuntime)); err != nil {
			return c, err
		}
	}
	c.services = runtimeServices(mix)
	for _, part := range parts(c.node.Address.String()) {
		c.services = append(c.services, part.service(mix))
	}
	if err := c.node.Start(ctx, c.services); err != nil {
		return c, err
	}
	return c, c.admitNode(ctx)
}

// Stop ends the node and leaves nothing of the cluster but the lock and the images.
func (c *Cluster) Stop(ctx context.Context) error {
	err := c.remove(ctx)
	if c.registry != nil {
		err = errors.Join(err, c.registry())
	}
	if c.lock != nil {
		err = errors.Join(err, c.lock.Close())
	}
	return err
}

// claimHome makes the folder of the cluster's files and keeps other runs out of it.
func (c *Cluster) claimHome(context.Context) (err error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	if c.lock, err = os.Create(home + "/lock"); err != nil {
		return err
	}
	return unix.Flock(int(c.lock.Fd()), unix.LOCK_EX)
}

func (c *Cluster) remove(ctx context.Context) error {
	return errors.Join(c.node.Remove(ctx), c.link.Down(ctx), os.RemoveAll(filepath.Join(home, "pki")), os.RemoveAll(c.Kubeconfig()))
}

func (c *Cluster) connect(ctx context.Context) (err error) {
	if c.link.Subnet, err = network.ChooseSubnet(); err != nil {
		return err
	}
	c.node.Network, c.node.Address = c.link, c.link.Gateway().Next()
	return c.link.Up(ctx)
}

// serveImages is the registry that the node pulls from.
func (c *Cluster) serveImages(ctx context.Context) error {
	pair := filepath.Join(home, "pki", "registry")
	certificate, err := tls.LoadX509KeyPair(pair+".crt", pair+".key")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // until Stop
	handler := registry.Handler(ctx, filepath.Join(home, "registry"), c.registryAddress())
	ready, done := make(chan struct{}), make(chan error, 1)
	c.registry = func() error {
		stop()
		return <-done
	}
	if err := registry.Import(ctx, handler, filepath.Join(c.node.Bundle, "images")); err != nil {
		close(done)
		return err
	}
	go func() { done <- registry.Serve(ctx, c.registryAddress(), certificate, handler, ready) }()
	select {
	case <-ready:
		return nil
	case err := <-done:
		close(done)
		return err
	}
}

func (c *Cluster) registryAddress() string {
	return net.JoinHostPort(c.link.Gateway().String(), "5000")
}

// Kubeconfig is the path of the administrator's.
func (*Cluster) Kubeconfig() string { return filepath.Join(home, "admin.conf") }

// writeFiles gives the node all that its parts start from: one authority, and an identity for each.
func (c *Cluster) writeFiles(context.Context) error {
	keys := c.node.StatePath(pkiDir)
	now := time.Now()
	services := netip.MustParsePrefix(serviceCIDR)
	err := pki.EnsureServer(keys, pki.Server{
		Name: NodeName, DNSDomain: domain,
		IPs: []net.IP{c.node.Address.AsSlice(), services.Masked().Addr().Next().AsSlice()},
	}, now)
	if err != nil {
		return err
	}
	serving := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	_, err = pki.EnsureClient(keys, "kubelet", pki.Request{
		CommonName: NodeName, DNSNames: []string{NodeName}, IPs: []net.IP{c.node.Address.AsSlice()}, Usages: serving,
	}, now)
	if err != nil {
		return err
	}
	for _, half := range []string{"ca.crt", "ca.key"} {
		if err := copyFile(filepath.Join(keys, half), filepath.Join(home, "pki", half)); err != nil {
			return err
		}
	}
	_, err = pki.EnsureClient(filepath.Join(home, "pki"), "registry", pki.Request{
		CommonName: "registry", IPs: []net.IP{c.link.Gateway().AsSlice()}, Usages: serving,
	}, now)
	if err != nil {
		return err
	}
	if err := c.writeKubeconfigs(keys, now); err != nil {
		return err
	}
	for path, text := range map[string]string{
		configDir + "/kubelet.yaml": kubeletConfiguration, cniDir + "/10-interop.conflist": cniConfiguration,
	} {
		if err := writeFile(c.node.StatePath(path), []byte(text)); err != nil {
			return err
		}
	}
	return containerd.Write(filepath.Join(c.node.Dir, "state"), containerdConfig, containerd.Config{
		Root: "/var/lib/containerd", State: "/run/containerd", Socket: containerdSocket, ProgramDir: node.ProgramDir,
		PauseImage: images.Pause, CNIConfDir: cniDir, CertsDir: certsDir, RestrictOOMScore: !containerd.MayLowerOOMScore(),
	}, containerd.Mirror{URL: "https://" + c.registryAddress(), CAFile: pkiDir + "/ca.crt"})
}

func (c *Cluster) writeKubeconfigs(keys string, now time.Time) error {
	ca, err := os.ReadFile(filepath.Join(keys, "ca.crt"))
	if err != nil {
		return err
	}
	entry := kubeconfig.Entry{Name: "interop", Server: "https://" + net.JoinHostPort(c.node.Address.String(), "6443"), CAPEM: ca}
	users := map[string]pki.Request{
		"admin":              {CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}},
		"controller-manager": {CommonName: "system:kube-controller-manager"},
		"scheduler":          {CommonName: "system:kube-scheduler"},
		"proxy":              {CommonName: "system:kube-proxy"},
	}
	for name, request := range users {
		pair, err := pki.EnsureClient(keys, name, request, now)
		if err != nil {
			return err
		}
		own := entry
		own.CertPEM, own.KeyPEM = pair.CertPEM, pair.KeyPEM
		path := c.node.StatePath(configDir + "/" + name + ".conf")
		if name == "admin" {
			path = c.Kubeconfig()
		}
		if err := kubeconfig.Write(path, own); err != nil {
			return err
		}
	}
	if c.token, err = newToken(); err != nil {
		return err
	}
	entry.User, entry.Token = "kubelet-bootstrap", c.token
	return kubeconfig.Write(c.node.StatePath(configDir+"/bootstrap-kubelet.conf"), entry)
}

// join is what an installer gives the node's identity.
//
//go:embed join.yaml
var join []byte

// admitNode waits for the API server, lets the kubelet ask for its certificate, as an installer does, and waits for the node.
func (c *Cluster) admitNode(ctx context.Context) error {
	if err := within(ctx, 2*time.Minute, func() error { return c.kubectl("get", "--raw", "/readyz") }); err != nil {
		return err
	}
	apply := c.kubectlCommand("apply", "-f", "-")
	apply.Stdin = bytes.NewReader(join)
	if out, err := apply.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	if err := bootstraptoken.Ensure(ctx, client, c.token); err != nil {
		return err
	}
	return within(ctx, 2*time.Minute, func() error { return c.kubectl("wait", "--for=condition=Ready", "node/"+NodeName, "--timeout=20s") })
}

// KeepLogs copies what the parts have logged to where it can be looked into after the end.
func (c *Cluster) KeepLogs(dir string) error {
	var errs []error
	for _, service := range c.services {
		errs = append(errs, copyFile(c.node.StatePath(service.Log), filepath.Join(dir, service.Name+".log")))
	}
	return errors.Join(errs...)
}

// Client is an administrator's, without client-side limits.
func (c *Cluster) Client() (kubernetes.Interface, error) {
	config, err := apiclient.FromKubeconfig(c.Kubeconfig(), "interop")
	if err != nil {
		return nil, err
	}
	return apiclient.Clientset(config)
}

// PID finds the process of a part, which is known by the program that it runs.
func (c *Cluster) PID(part string) (int, error) {
	at := slices.IndexFunc(c.services, func(s supervisor.Service) bool { return s.Name == part })
	if at < 0 {
		return 0, fmt.Errorf("the cluster has no %s", part)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, path := range lines {
		if data, err := os.ReadFile(path); err == nil && bytes.HasPrefix(data, []byte(c.services[at].Args[0]+"\x00")) {
			return strconv.Atoi(filepath.Base(filepath.Dir(path)))
		}
	}
	return 0, fmt.Errorf("%s does not run", part)
}

func (c *Cluster) kubectlCommand(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(c.node.Bundle, "keelson"), append([]string{"kubectl", "--kubeconfig", c.Kubeconfig()}, args...)...) //nolint:noctx // it has time limits of its own
}

func (c *Cluster) kubectl(args ...string) error {
	if out, err := c.kubectlCommand(args...).CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// within repeats what fails until it succeeds or the time is over.
func within(ctx context.Context, long time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", long, err)
		case <-tick.C:
		}
	}
}

// newToken is a bootstrap token.
func newToken() (string, error) {
	random := make([]byte, 11)
	if _, err := rand.Read(random); err != nil {
		return "", err
	}
	text := hex.EncodeToString(random)
	return text[:6] + "." + text[6:], nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return writeFile(to, data)
}

func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
