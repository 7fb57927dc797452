package server_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/apiserver/server"
	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/pki"
)

// shared is the server that most tests of the package talk to, each in a namespace of its own.
var shared *testServer

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "apiserver")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if shared, err = launch(dir, nil); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		return 1
	}
	defer func() {
		if err := shared.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "server:", err)
		}
	}()
	return m.Run()
}

// testServer is a server that runs in this process.
type testServer struct {
	dir      string // its state, and its keys below pki
	loopback *rest.Config
	client   kubernetes.Interface
	// stop ends the server and returns once it has drained; later calls do nothing.
	stop func() error
}

// pki returns the path of one of the server's keys or certificates.
func (s *testServer) pki(name string) string { return filepath.Join(s.dir, "pki", name) }

// as returns a client with the credentials that change sets, and nothing else but trust in the server.
func (s *testServer) as(t *testing.T, change func(*rest.Config)) kubernetes.Interface {
	t.Helper()
	config := rest.AnonymousClientConfig(s.loopback)
	change(config)
	return must(apiclient.Clientset(apiclient.Config(config, "test")))(t)
}

// impersonate returns a client that speaks as somebody else.
func (s *testServer) impersonate(t *testing.T, user string, groups ...string) kubernetes.Interface {
	t.Helper()
	config := rest.CopyConfig(s.loopback)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return must(apiclient.Clientset(apiclient.Config(config, "test")))(t)
}

// raw sends a request as the privileged user, as it stands, and returns the status code and the body.
func (s *testServer) raw(t *testing.T, method, path, contentType, accept, body string) (int, string) {
	t.Helper()
	request := must(http.NewRequestWithContext(t.Context(), method, s.loopback.Host+path, strings.NewReader(body)))(t)
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("Accept", accept)
	response := must(must(apiclient.HTTPClient(s.loopback))(t).Do(request))(t) //nolint:bodyclose // it is, below
	defer response.Body.Close()
	return response.StatusCode, string(must(io.ReadAll(response.Body))(t))
}

// newServer runs a server until the test ends. change may adjust what is not the default of a test.
func newServer(t *testing.T, dir string, change func(*server.Options)) *testServer {
	t.Helper()
	s, err := launch(dir, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// launch starts a server with its state in dir and returns when it is ready.
func launch(dir string, change func(*server.Options)) (*testServer, error) {
	o, err := options(dir)
	if err != nil {
		return nil, err
	}
	if change != nil {
		change(o)
	}
	ready := make(chan *rest.Config, 1)
	o.Ready = func(loopback *rest.Config) { ready <- loopback }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, o) }()
	s := &testServer{dir: dir}
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	select {
	case s.loopback = <-ready:
	case err := <-ended:
		cancel()
		return nil, err
	case <-time.After(time.Minute):
		return nil, errors.Join(errors.New("the server is not ready after a minute"), s.stop())
	}
	if s.client, err = apiclient.Clientset(apiclient.Config(s.loopback, "test")); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// options are those of a server with its state in dir and an embedded etcd.
func options(dir string) (*server.Options, error) {
	keys := filepath.Join(dir, "pki")
	if err := pki.EnsureServer(keys, pki.Server{Name: "test", DNSDomain: "cluster.local"}, time.Now()); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := server.NewOptions()
	o.Listener = listener
	o.Run.AdvertiseAddress = net.IPv4(192, 0, 2, 1) // documentation address: nothing dials it
	o.Embedded.DataDir = filepath.Join(dir, "etcd")
	o.Embedded.UnsafeNoFsync = true
	o.Authentication.ClientCAFile = filepath.Join(keys, "ca.crt")
	o.ServiceAccount.Issuers = []string{"https://kubernetes.default.svc.cluster.local"}
	o.ServiceAccount.SigningKeyFile = filepath.Join(keys, "sa.key")
	return o, nil
}

// eventually waits until what is asked for holds; it fails the test when it does not within a while.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return holds(), nil
	})
	if err != nil {
		t.Fatalf("%s: not within a minute", what)
	}
}

// write replaces a file in one step, as a mounted ConfigMap or an editor does.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func base64Of(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// file writes a file of the test and returns its path.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	write(t, path, text)
	return path
}
