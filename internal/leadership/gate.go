package leadership

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
)

// Gate lets writes through while the lease is held, and not one after that: neither new ones nor those that are under way, nor those
// of a process that slept through the end of its lease and does not know it yet.
type Gate struct {
	held  context.Context //nolint:containedctx // its end is what the gate is about
	check func() error
}

// Wrap puts the gate before a transport; it is a transport.WrapperFunc.
func (g *Gate) Wrap(next http.RoundTripper) http.RoundTripper { return gated{g, next} }

// Later is a gate for a client that is made before the lease is held: no write passes until it is opened.
type Later struct{ gate atomic.Pointer[Gate] }

// Open lets pass what the gate of the lease lets pass.
func (l *Later) Open(g *Gate) { l.gate.Store(g) }

// Wrap puts the gate before a transport.
func (l *Later) Wrap(next http.RoundTripper) http.RoundTripper { return later{l, next} }

type later struct {
	*Later
	next http.RoundTripper
}

func (l later) RoundTrip(req *http.Request) (*http.Response, error) {
	g := l.gate.Load()
	if g == nil {
		closed, end := context.WithCancel(context.Background())
		end()
		g = &Gate{held: closed}
	}
	return gated{g, l.next}.RoundTrip(req)
}

type gated struct {
	*Gate
	next http.RoundTripper
}

func (g gated) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		return g.next.RoundTrip(req)
	}
	err := g.held.Err()
	if err == nil {
		err = g.check()
	}
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, fmt.Errorf("%s %s is not sent: %w: %w", req.Method, req.URL.Path, ErrLost, err)
	}
	ctx, cancel := context.WithCancel(req.Context())
	stop := context.AfterFunc(g.held, cancel) //nolint:contextcheck // a request ends with the lease as well
	resp, err := g.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		stop()
		cancel()
		return nil, err
	}
	resp.Body = &closing{resp.Body, func() { stop(); cancel() }}
	return resp, nil
}

type closing struct {
	io.ReadCloser
	end func()
}

func (c *closing) Close() error {
	defer c.end()
	return c.ReadCloser.Close()
}
