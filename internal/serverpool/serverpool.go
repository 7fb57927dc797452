// Package serverpool leads clients to one of several API servers: one that is ready, and another as soon as it is not. What it hands
// out are plain connections, so clients keep their own TLS and notice no more than that a connection ended.
package serverpool

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// ServerName is what the certificate of every API server names, whatever its address.
const ServerName = "kubernetes"

const (
	// probeInterval is how often the server in use is asked whether it is ready, probeTimeout how long it may think about that. A server
	// that is dead or frozen is left after the sum of both: before a lab's nodes, with heartbeats each 3 s, count as silent after 15 s.
	probeInterval = 2 * time.Second
	probeTimeout  = 4 * time.Second
	// dialTimeout is how long one server may take to accept a connection.
	dialTimeout = 2 * time.Second
)

// Pool is a number of API servers of which one is in use.
type Pool struct {
	servers  func() []string
	probe    *http.Client
	interval time.Duration

	mu    sync.Mutex
	inUse string
	conns map[*conn]bool
}

// New returns a pool of the servers (host:port, the preferred one first) that the function lists, now and later; at least one. Their
// certificates must be of an authority in caPEM.
func New(caPEM []byte, servers func() []string) (*Pool, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("no certificate in the cluster authority's file")
	}
	// HTTP/1.1: a probe that times out takes its connection with it.
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots, ServerName: ServerName, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 1, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext,
	}
	return &Pool{
		servers: servers, probe: &http.Client{Transport: transport, Timeout: probeTimeout}, interval: probeInterval, conns: map[*conn]bool{},
	}, nil
}

// Apply makes the clients of a configuration reach the API by the pool. Its authority is left as it is.
func (p *Pool) Apply(config *rest.Config) {
	config.Host, config.Dial, config.ServerName = "https://"+p.order()[0], p.Dial, ServerName
	config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
}

// Dial connects to the server in use, or else to the next that accepts, which is in use from then on. The address is not looked at.
func (p *Pool) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var failures []error
	for _, server := range p.order() {
		c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", server)
		if err == nil {
			p.use(ctx, server)
			return p.keep(c, server), nil
		}
		failures = append(failures, err)
	}
	return nil, fmt.Errorf("no API server accepts connections: %w", errors.Join(failures...))
}

// Run watches over the server in use until ctx ends. As soon as it is not ready and another one is, all connections end, and the next
// ones lead to the other.
func (p *Pool) Run(ctx context.Context) {
	wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		order := p.order()
		if len(order) == 1 || p.ready(ctx, order[0]) {
			return
		}
		for _, other := range order[1:] {
			if p.ready(ctx, other) {
				p.use(ctx, other)
				return
			}
		}
	}, p.interval, 0.1, true)
}

// Serve passes connections on to the server in use until ctx ends.
func (p *Pool) Serve(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	go p.Run(ctx)
	for {
		client, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept connection: %w", err)
		}
		go p.pass(ctx, client)
	}
}

func (p *Pool) pass(ctx context.Context, client net.Conn) {
	defer client.Close()
	server, err := p.Dial(ctx, "", "")
	if err != nil {
		klog.FromContext(ctx).Info("A connection is refused", "err", err)
		return
	}
	defer server.Close()
	ended := make(chan struct{}, 2)
	for to, from := range map[net.Conn]net.Conn{client: server, server: client} {
		go func() {
			_, _ = io.Copy(to, from) // whichever side ends, both do
			ended <- struct{}{}
		}()
	}
	<-ended
}

// order lists all servers, the one in use first, and then as they follow one another.
func (p *Pool) order() []string {
	all := slices.Clone(p.servers())
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(all, p.inUse); i > 0 {
		all = append(all[i:], all[:i]...)
	}
	return all
}

func (p *Pool) ready(ctx context.Context, server string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+server+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := p.probe.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err == nil && response.StatusCode == http.StatusOK
}

// use makes a server the one in use, and ends connections to all others.
func (p *Pool) use(ctx context.Context, server string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inUse == server {
		return
	}
	if p.inUse != "" {
		klog.FromContext(ctx).Info("Another API server is in use", "server", server, "before", p.inUse)
	}
	p.inUse = server
	for c := range p.conns {
		if c.server != server {
			delete(p.conns, c)
			go c.Conn.Close() // it may wait for what is being written
		}
	}
}

func (p *Pool) keep(c net.Conn, server string) net.Conn {
	kept := &conn{c, p, server}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[kept] = true
	return kept
}

type conn struct {
	net.Conn
	pool   *Pool
	server string
}

func (c *conn) Close() error {
	c.pool.mu.Lock()
	delete(c.pool.conns, c)
	c.pool.mu.Unlock()
	return c.Conn.Close()
}
