package leadership

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
)

// Gate lets writes through while the lease is held, and not one else: neither those before and after, nor those that are under way when
// it ends, nor those of a process that slept through its end and does not know it yet. A new gate is closed.
type Gate struct{ turn atomic.Pointer[turn] }

// turn is a time without a break for which the lease is held.
type turn struct {
	renewing context.Context //nolint:containedctx // its end is what the gate is about
	check    func() error
}

func (g *Gate) open(renewing context.Context, check func() error) {
	g.turn.Store(&turn{renewing, check})
}

func (g *Gate) close() { g.turn.Store(nil) }

// Wrap puts the gate before a transport; it is a transport.WrapperFunc.
func (g *Gate) Wrap(next http.RoundTripper) http.RoundTripper { return gated{g, next} }

type gated struct {
	*Gate
	next http.RoundTripper
}

func (g gated) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		return g.next.RoundTrip(req)
	}
	now, err := g.now()
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, fmt.Errorf("%s %s is not sent: %w", req.Method, req.URL.Path, err)
	}
	ctx, cancel := context.WithCancel(req.Context())
	stop := context.AfterFunc(now.renewing, cancel) //nolint:contextcheck // a request ends with the lease as well
	resp, err := g.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		stop()
		cancel()
		return nil, err
	}
	resp.Body = &closing{resp.Body, func() { stop(); cancel() }}
	return resp, nil
}

// now is the turn that a write may be sent in.
func (g *Gate) now() (*turn, error) {
	now := g.turn.Load()
	if now == nil {
		return nil, ErrLost
	}
	err := now.renewing.Err()
	if err == nil {
		err = now.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return now, nil
}

type closing struct {
	io.ReadCloser
	end func()
}

func (c *closing) Close() error {
	defer c.end()
	return c.ReadCloser.Close()
}
