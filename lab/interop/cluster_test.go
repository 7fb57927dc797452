//go:build interop

package interop

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// cluster is a cluster of one node that holds every part. It ends with the test.
type cluster struct {
	node  *node.Node
	link  network.Network
	home  string // of its files on the machine
	token string // by which the kubelet joins
}

// start brings up a cluster of that mix and returns once its node is Ready.
func start(t *testing.T, mix Mix) *cluster {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	must(t, err)
	c := &cluster{home: claimHome(t), token: newToken(t)}
	c.node = &node.Node{Name: nodeName, Cluster: "interop", Dir: filepath.Join(c.home, "nodes", nodeName), Bundle: bin}
	c.link.Cluster = c.node.Cluster
	ctx := context.WithoutCancel(t.Context()) // clean-up needs it too
	must(t, c.remove(ctx))                    // of a run that was killed
	c.link.Subnet, err = network.ChooseSubnet()
	must(t, err)
	c.node.Network, c.node.Address = c.link, c.link.Gateway().Next()
	t.Cleanup(func() { must(t, c.remove(ctx)) })
	must(t, c.link.Up(ctx))
	must(t, c.writeFiles())
	c.serveImages(t, filepath.Join(bin, "images"))
	services := runtimeServices()
	for _, part := range parts(c.node.Address.String()) {
		services = append(services, part.service(mix))
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.keepLogs(t, services)
		}
	})
	must(t, c.node.Start(ctx, services))
	c.admitNode(t)
	return c
}

// claimHome makes the folder of the cluster's files, on a real file system and with a short path, and keeps other runs out of it.
func claimHome(t *testing.T) string {
	t.Helper()
	const home = "/var/tmp/keelson-interop"
	must(t, os.MkdirAll(home, 0o700))
	lock, err := os.Create(home + "/lock")
	must(t, err)
	t.Cleanup(func() { must(t, lock.Close()) })
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	return home
}

// remove ends the node and leaves nothing of the cluster but the lock and the images.
func (c *cluster) remove(ctx context.Context) error {
	return errors.Join(
		c.node.Remove(ctx), c.link.Down(ctx), os.RemoveAll(filepath.Join(c.home, "pki")), os.RemoveAll(c.kubeconfig()))
}

// serveImages is the registry that the node pulls from.
func (c *cluster) serveImages(t *testing.T, images string) {
	t.Helper()
	pair := filepath.Join(c.home, "pki", "registry")
	certificate, err := tls.LoadX509KeyPair(pair+".crt", pair+".key")
	must(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	handler := registry.Handler(ctx, filepath.Join(c.home, "registry"), c.registry())
	must(t, registry.Import(ctx, handler, images))
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- registry.Serve(ctx, c.registry(), certificate, handler, ready) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		must(t, <-done)
	})
}

func (c *cluster) registry() string   { return net.JoinHostPort(c.link.Gateway().String(), "5000") }
func (c *cluster) kubeconfig() string { return filepath.Join(c.home, "admin.conf") }

// writeFiles gives the node all that its parts start from: one authority, and an identity for each.
func (c *cluster) writeFiles() error {
	keys := c.node.StatePath(pkiDir)
	now := time.Now()
	services := netip.MustParsePrefix(serviceCIDR)
	err := pki.EnsureServer(keys, pki.Server{
		Name: nodeName, DNSDomain: domain,
		IPs: []net.IP{c.node.Address.AsSlice(), services.Masked().Addr().Next().AsSlice()},
	}, now)
	if err != nil {
		return err
	}
	serving := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	_, err = pki.EnsureClient(keys, "kubelet", pki.Request{
		CommonName: nodeName, DNSNames: []string{nodeName}, IPs: []net.IP{c.node.Address.AsSlice()}, Usages: serving,
	}, now)
	if err != nil {
		return err
	}
	for _, half := range []string{"ca.crt", "ca.key"} {
		if err := copyFile(filepath.Join(keys, half), filepath.Join(c.home, "pki", half)); err != nil {
			return err
		}
	}
	_, err = pki.EnsureClient(filepath.Join(c.home, "pki"), "registry", pki.Request{
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
	}, containerd.Mirror{URL: "https://" + c.registry(), CAFile: pkiDir + "/ca.crt"})
}

func (c *cluster) writeKubeconfigs(keys string, now time.Time) error {
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
			path = c.kubeconfig()
		}
		if err := kubeconfig.Write(path, own); err != nil {
			return err
		}
	}
	entry.User, entry.Token = "kubelet-bootstrap", c.token
	return kubeconfig.Write(c.node.StatePath(configDir+"/bootstrap-kubelet.conf"), entry)
}

// admitNode waits for the API server, lets the kubelet ask for its certificate, as an installer does, and waits for the node.
func (c *cluster) admitNode(t *testing.T) {
	t.Helper()
	within(t, 2*time.Minute, func() error { return c.kubectl("get", "--raw", "/readyz") })
	must(t, c.kubectl("apply", "-f", "testdata/join.yaml"))
	config, err := apiclient.FromKubeconfig(c.kubeconfig(), "interop")
	must(t, err)
	client, err := apiclient.Clientset(config)
	must(t, err)
	must(t, bootstraptoken.Ensure(t.Context(), client, c.token))
	within(t, 2*time.Minute, func() error { return c.kubectl("wait", "--for=condition=Ready", "node/"+nodeName, "--timeout=20s") })
}

// keepLogs copies what the parts have logged to where the failed test can be looked into.
func (c *cluster) keepLogs(t *testing.T, services []supervisor.Service) {
	dir := filepath.Join("../../bin/interop", filepath.Base(t.Name()))
	for _, service := range services {
		if err := copyFile(c.node.StatePath(service.Log), filepath.Join(dir, service.Name+".log")); err != nil {
			t.Log(err)
		}
	}
	t.Logf("the parts' logs are in %s", dir)
}

// newToken is a bootstrap token.
func newToken(t *testing.T) string {
	t.Helper()
	random := make([]byte, 11)
	_, err := rand.Read(random)
	must(t, err)
	text := hex.EncodeToString(random)
	return text[:6] + "." + text[6:]
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
