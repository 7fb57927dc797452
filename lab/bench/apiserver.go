package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"keelson.dev/internal/pki"
)

// apiserver measures the API server alone, with its embedded etcd on an empty folder: from exec until /readyz says ok.
func (b *bench) apiserver(ctx context.Context) error {
	for range b.runs {
		if err := b.startAPIServer(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) startAPIServer(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := pki.EnsureServer(dir, pki.Server{Name: "bench", DNSDomain: "cluster.local"}, time.Now()); err != nil {
		return err
	}
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	server := exec.CommandContext(ctx, filepath.Join(b.bin, "apiserver"),
		"--data-dir="+filepath.Join(dir, "data"), "--bind-address=127.0.0.1", "--secure-port="+port, "--service-cluster-ip-range=10.96.0.0/12",
		"--authorization-mode=Node,RBAC", "--client-ca-file="+filepath.Join(dir, "ca.crt"), "--endpoint-reconciler-type=none",
		"--tls-cert-file="+filepath.Join(dir, "apiserver.crt"), "--tls-private-key-file="+filepath.Join(dir, "apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+filepath.Join(dir, "sa.pub"),
		"--service-account-signing-key-file="+filepath.Join(dir, "sa.key"))
	if err := server.Start(); err != nil {
		return fmt.Errorf("start API server: %w", err)
	}
	defer func() {
		_ = server.Process.Signal(unix.SIGTERM)
		_ = server.Wait() // ended by the signal
	}()
	if err := waitReady(ctx, "https://127.0.0.1:"+port+"/readyz"); err != nil {
		return err
	}
	b.record("apiserver with etcd, exec → ready", time.Since(began))
	return nil
}

// waitReady asks until the answer is 200; a bench may poll, finely.
func waitReady(ctx context.Context, url string) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // our own server, on loopback
	}}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if response, err := client.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", url, ctx.Err())
		case <-tick.C:
		}
	}
}

func freePort(ctx context.Context) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	return port, err
}
