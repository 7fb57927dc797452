package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/bench"
	"keelson.dev/internal/pki"
)

// pair is our API server and upstream's on this machine, with the same certificates and flags: Node and RBAC, audit of all requests
// at level Metadata, the admission plugins that kubeadm enables, priority and fairness, TLS between everything that is a connection.
type pair struct {
	options
	dir     string
	running []*exec.Cmd
}

const auditPolicy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n"

func newPair(o options) (*pair, error) {
	dir, err := os.MkdirTemp("", "bench-apiserver-")
	if err != nil {
		return nil, err
	}
	p := &pair{options: o, dir: dir}
	for name, request := range map[string]pki.Request{
		"admin": {CommonName: "admin", Organizations: []string{"system:masters"}},
		// One who is authorized by a role and waits in a queue like others, as members of system:masters do not.
		"bench": {CommonName: "bench", Organizations: []string{"bench"}},
	} {
		if _, err = pki.EnsureClient(p.pki(""), name, request, time.Now()); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	err = errors.Join(
		pki.EnsureServer(p.pki(""), pki.Server{Name: "bench", DNSDomain: "cluster.local"}, time.Now()),
		os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(auditPolicy), 0o600))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return p, nil
}

func (p *pair) pki(name string) string { return filepath.Join(p.dir, "pki", name) }

// close ends all processes and removes what they stored.
func (p *pair) close() {
	p.stop()
	if err := os.RemoveAll(p.dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

func (p *pair) stop() {
	for _, command := range p.running {
		_ = command.Process.Kill() // nothing is kept, so nothing needs to drain
		_ = command.Wait()         // ended by the signal
	}
	p.running = nil
}

// start measures the starts of both, the last of which stay.
func (p *pair) start(ctx context.Context) ([]*server, error) {
	second := p.upstream
	if p.other != "" {
		second = func(ctx context.Context, dir string) (*server, error) { return p.ours(ctx, "other", p.other, dir) }
	}
	first := func(ctx context.Context, dir string) (*server, error) {
		return p.ours(ctx, "Keelson", filepath.Join(p.bin, "apiserver"), dir, p.oursFlags...)
	}
	fmt.Println("| start on an empty folder | exec → ready, s | CPU, s |\n| --- | --- | --- |")
	var servers []*server
	for range max(p.starts, 1) {
		p.stop()
		servers = nil
		for _, begin := range []func(context.Context, string) (*server, error){first, second} {
			dir, err := os.MkdirTemp(p.dir, "server-")
			if err != nil {
				return nil, err
			}
			s, err := begin(ctx, dir)
			if err != nil {
				return nil, err
			}
			servers = append(servers, s)
		}
	}
	for _, s := range servers {
		if err := p.admit(ctx, s); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Println()
	return servers, nil
}

// ours starts a build of our API server, which brings its etcd.
func (p *pair) ours(ctx context.Context, name, program, dir string, extra ...string) (*server, error) {
	began, port := time.Now(), freePort()
	flags := append(p.flags(dir, port), "--data-dir="+filepath.Join(dir, "etcd"))
	pid, err := p.exec(dir, program, append(flags, extra...)...)
	if err != nil {
		return nil, err
	}
	return p.ready(ctx, name, port, began, pid)
}

// upstream starts etcd as kubeadm does, and kube-apiserver at the same time.
func (p *pair) upstream(ctx context.Context, dir string) (*server, error) {
	began, port := time.Now(), freePort()
	client, peer := "https://127.0.0.1:"+freePort(), "https://127.0.0.1:"+freePort()
	etcd, err := p.exec(dir, filepath.Join(p.bin, "upstream", "etcd"),
		"--data-dir="+filepath.Join(dir, "etcd"), "--name=bench", "--log-level=warn",
		"--listen-client-urls="+client, "--advertise-client-urls="+client, "--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer, "--initial-cluster=bench="+peer,
		"--snapshot-count=10000", "--watch-progress-notify-interval=5s",
		"--client-cert-auth=true", "--trusted-ca-file="+p.pki("etcd/ca.crt"), "--cert-file="+p.pki("etcd/server.crt"), "--key-file="+p.pki("etcd/server.key"),
		"--peer-client-cert-auth=true", "--peer-trusted-ca-file="+p.pki("etcd/ca.crt"), "--peer-cert-file="+p.pki("etcd/peer.crt"), "--peer-key-file="+p.pki("etcd/peer.key"))
	if err != nil {
		return nil, err
	}
	flags := append(p.flags(dir, port), "--etcd-servers="+client, "--etcd-cafile="+p.pki("etcd/ca.crt"),
		"--etcd-certfile="+p.pki("apiserver-etcd-client.crt"), "--etcd-keyfile="+p.pki("apiserver-etcd-client.key"))
	api, err := p.exec(dir, filepath.Join(p.bin, "upstream", "kube-apiserver"), flags...)
	if err != nil {
		return nil, err
	}
	return p.ready(ctx, "upstream", port, began, api, etcd)
}

// flags are those of both servers.
func (p *pair) flags(dir, port string) []string {
	return []string{
		"--bind-address=127.0.0.1", "--secure-port=" + port, "--endpoint-reconciler-type=none",
		"--tls-cert-file=" + p.pki("apiserver.crt"), "--tls-private-key-file=" + p.pki("apiserver.key"), "--client-ca-file=" + p.pki("ca.crt"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--enable-bootstrap-token-auth=true", "--allow-privileged=true",
		"--audit-policy-file=" + filepath.Join(p.dir, "policy.yaml"), "--audit-log-path=" + filepath.Join(dir, "audit.log"),
		"--service-cluster-ip-range=10.96.0.0/12", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + p.pki("sa.pub"), "--service-account-signing-key-file=" + p.pki("sa.key"),
		"--requestheader-client-ca-file=" + p.pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + p.pki("front-proxy-client.crt"), "--proxy-client-key-file=" + p.pki("front-proxy-client.key"),
	}
}

// exec starts a program that logs into dir.
func (p *pair) exec(dir, program string, args ...string) (int, error) {
	log, err := os.Create(filepath.Join(dir, filepath.Base(program)+".log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()                     // the child has its own
	cmd := exec.Command(program, args...) //nolint:noctx // it is ended by a signal, to drain
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	p.running = append(p.running, cmd)
	return cmd.Process.Pid, nil
}

// ready waits until the server answers /readyz with ok; a benchmark may poll, finely.
func (p *pair) ready(ctx context.Context, name, port string, began time.Time, pids ...int) (*server, error) {
	s := &server{name: name, pids: pids, config: p.client("bench", port)}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // our own server, on loopback
	}}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:"+port+"/readyz", nil)
		if err != nil {
			return nil, err
		}
		if response, err := client.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				used, err := bench.UsageOf(pids)
				fmt.Printf("| %s | %.2f | %.2f |\n", name, time.Since(began).Seconds(), used.CPU.Seconds())
				return s, err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s is not ready: %w; its logs are gone with %s", name, ctx.Err(), p.dir)
		}
	}
}

func (p *pair) client(user, port string) *rest.Config {
	return apiclient.Config(&rest.Config{Host: "https://127.0.0.1:" + port, TLSClientConfig: rest.TLSClientConfig{
		CAFile: p.pki("ca.crt"), CertFile: p.pki(user + ".crt"), KeyFile: p.pki(user + ".key"),
	}}, "bench")
}

// admit gives the benchmark's user its role.
func (p *pair) admit(ctx context.Context, s *server) error {
	_, port, err := net.SplitHostPort(s.config.Host[len("https://"):])
	if err != nil {
		return err
	}
	client, err := apiclient.Clientset(p.client("admin", port))
	if err != nil {
		return err
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "bench"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "bench"}},
	}, metav1.CreateOptions{})
	return err
}

// freePort returns a port that nobody listens on now.
func freePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
	if err != nil {
		return "0"
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}
