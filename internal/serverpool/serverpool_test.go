package serverpool

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"keelson.dev/internal/pki"
)

// fake is an API server: ready, not ready, or frozen.
type fake struct {
	*httptest.Server
	name   string
	state  atomic.Value
	thawed chan struct{}
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch state := f.state.Load(); {
	case state == "frozen":
		<-f.thawed
	case r.URL.Path == "/hang":
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case r.URL.Path == "/readyz" && state != "ready":
		w.WriteHeader(http.StatusInternalServerError)
	default:
		_, _ = io.WriteString(w, f.name)
	}
}

func newFake(t *testing.T, name string, authority *pki.Authority) *fake {
	t.Helper()
	pair, err := authority.Issue(pki.Request{CommonName: name, DNSNames: []string{ServerName}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{name: name, thawed: make(chan struct{})}
	f.state.Store("ready")
	f.Server = httptest.NewUnstartedServer(f)
	f.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	f.EnableHTTP2 = true
	f.StartTLS()
	t.Cleanup(f.Close)
	t.Cleanup(sync.OnceFunc(func() { close(f.thawed) })) // first: Close waits for what is under way
	return f
}

func (f *fake) address() string { return f.Listener.Addr().String() }

// TestPool has the server in use fail in every way; clients go on with another, and what they had with the first ends.
func TestPool(t *testing.T) {
	for name, fail := range map[string]func(*fake){
		"NotReady": func(f *fake) { f.state.Store("draining") },
		"Frozen":   func(f *fake) { f.state.Store("frozen") },
		"Dead":     func(f *fake) { f.Listener.Close(); f.CloseClientConnections() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			authority, pair, err := pki.NewAuthority("kubernetes", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			one, two := newFake(t, "one", authority), newFake(t, "two", authority)
			pool, err := New(pair.CertPEM, func() []string { return []string{one.address(), two.address()} })
			if err != nil {
				t.Fatal(err)
			}
			pool.interval, pool.probe.Timeout = 50*time.Millisecond, 500*time.Millisecond
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- pool.Serve(ctx, listener) }()

			config := &rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: pair.CertPEM}}
			pool.Apply(config)
			balanced := &rest.Config{Host: "https://" + listener.Addr().String(), TLSClientConfig: rest.TLSClientConfig{CAData: pair.CertPEM, ServerName: ServerName}}
			clients := []*http.Client{client(t, config), client(t, balanced)}
			hosts := []string{config.Host, balanced.Host}
			var hanging []io.ReadCloser
			for i, c := range clients {
				if got := get(t, c, hosts[i]+"/"); got != "one" {
					t.Fatalf("client %d is served by %q", i, got)
				}
				response, err := c.Get(hosts[i] + "/hang") //nolint:bodyclose // below
				if err != nil {
					t.Fatal(err)
				}
				hanging = append(hanging, response.Body)
			}
			fail(one)
			for i, body := range hanging {
				if _, err := io.ReadAll(body); err == nil {
					t.Errorf("client %d: a watch ended as if it was over", i)
				}
				body.Close()
				deadline := time.Now().Add(20 * time.Second)
				for get(t, clients[i], hosts[i]+"/") != "two" {
					if time.Now().After(deadline) {
						t.Fatalf("client %d does not come to the other server", i)
					}
				}
			}
			cancel()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

func client(t *testing.T, config *rest.Config) *http.Client {
	t.Helper()
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// get returns who answers; nobody is no failure.
func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := c.Do(request)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return string(body)
}

// TestOrder begins with the server in use.
func TestOrder(t *testing.T) {
	servers := []string{"a", "b", "c"}
	p := &Pool{servers: func() []string { return servers }}
	for _, step := range []struct {
		inUse   string
		servers []string
		want    []string
	}{
		{"", []string{"a", "b", "c"}, []string{"a", "b", "c"}},
		{"b", []string{"a", "b", "c"}, []string{"b", "c", "a"}},
		{"b", []string{"a", "c"}, []string{"a", "c"}},
	} {
		p.inUse, servers = step.inUse, step.servers
		if got := p.order(); !slices.Equal(got, step.want) {
			t.Errorf("%s of %v in use: %v, want %v", step.inUse, step.servers, got, step.want)
		}
	}
}
