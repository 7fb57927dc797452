package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	token = "differential"
	// startTime is how long a server may take until it is ready, on a loaded machine.
	startTime = 3 * time.Minute
)

// servers are the processes of one comparison: an etcd for each API server, so that revisions and keys do not mix.
type servers struct {
	dir     string
	started []*exec.Cmd
	pair    pair
}

func startServers(ctx context.Context, s *settings) (_ *servers, err error) {
	dir, err := os.MkdirTemp("", "differential")
	if err != nil {
		return nil, err
	}
	v := &servers{dir: dir}
	defer func() {
		if err != nil {
			v.stop()
		}
	}()
	if err := v.files(); err != nil {
		return nil, err
	}
	upstream, err := v.server(s, "upstream", s.upstream)
	if err != nil {
		return nil, err
	}
	ours, err := v.server(s, "ours", s.ours)
	if err != nil {
		return nil, err
	}
	v.pair = pair{upstream: upstream, ours: ours}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for _, cmd := range v.started {
		go func() { // its end, too early, ends the wait
			_ = cmd.Wait()
			cancel()
		}()
	}
	return v, errors.Join(upstream.ready(ctx), ours.ready(ctx))
}

// files writes what both servers are configured with.
func (v *servers) files() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return errors.Join(
		os.WriteFile(filepath.Join(v.dir, "sa.key"), pem.EncodeToMemory(block), 0o600),
		os.WriteFile(filepath.Join(v.dir, "tokens.csv"), []byte(token+",admin,admin,system:masters\nplain,plain,plain\n"), 0o600),
	)
}

// server starts an etcd and an API server on it. Both get the same flags but for ports and folders.
func (v *servers) server(s *settings, name, program string) (*client, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	etcd, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	dir := filepath.Join(v.dir, name)
	err = v.start(s.out, name+"-etcd", s.etcd, "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--listen-client-urls="+etcd,
		"--advertise-client-urls="+etcd, "--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)
	if err != nil {
		return nil, err
	}
	err = v.start(s.out, name, program,
		"--etcd-servers="+etcd, "--secure-port="+fmt.Sprint(ports[2]), "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1",
		"--cert-dir="+filepath.Join(dir, "certificates"), "--endpoint-reconciler-type=none",
		"--authorization-mode=Node,RBAC", "--token-auth-file="+filepath.Join(v.dir, "tokens.csv"), "--enable-bootstrap-token-auth",
		"--allow-privileged=true", "--anonymous-auth=true", "--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+filepath.Join(v.dir, "sa.key"), "--service-account-signing-key-file="+filepath.Join(v.dir, "sa.key"),
		// A burst of requests is what this tool is; nothing shall be turned away.
		"--enable-priority-and-fairness=false", "--max-requests-inflight=0", "--max-mutating-requests-inflight=0")
	if err != nil {
		return nil, err
	}
	return newClient(name, fmt.Sprintf("https://127.0.0.1:%d", ports[2])), nil
}

func (v *servers) start(logs, name, program string, args ...string) error {
	file, err := os.Create(filepath.Join(logs, name+".log"))
	if err != nil {
		return err
	}
	defer file.Close() // the process has its own handle
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	v.started = append(v.started, cmd)
	return nil
}

// stop ends what was started, the API servers before their etcds, and removes their state.
func (v *servers) stop() {
	for i := len(v.started) - 1; i >= 0; i-- {
		_ = v.started[i].Process.Kill() // it fails only for a process that has ended
		_, _ = v.started[i].Process.Wait()
	}
	_ = os.RemoveAll(v.dir)
}

// freePorts asks the kernel for ports that nobody listens on.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end, so that no port comes twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// ready waits until the server says so.
func (c *client) ready(ctx context.Context) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/readyz", nil)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := c.http.Do(request)
		if err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: see its log: %w", c.name, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}
