package faults

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// plague is what one life of the controller manager has to bear.
type plague struct {
	fail, lose float64       // share of the calls that do not arrive, and of those whose answer does not
	stall      time.Duration // longest time that a watch stands still, each by itself
	dieAt      int64         // the write at which the process ends, before it or after it; 0: none
}

// ill is a transport that spreads a plague.
type ill struct {
	plague
	die func()

	mu       sync.Mutex
	rand     *rand.Rand
	writes   atomic.Int64
	dead     atomic.Bool
	underway sync.WaitGroup
}

var (
	errNotSent = errors.New("fault: the call did not arrive")
	errLost    = errors.New("fault: the answer is lost")
	errDead    = errors.New("fault: the process is dead")
)

func (i *ill) chance(p float64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.rand.Float64() < p
}

func (i *ill) upTo(most time.Duration) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	return time.Duration(i.rand.Int64N(int64(most) + 1))
}

func (i infected) RoundTrip(req *http.Request) (*http.Response, error) {
	if i.dead.Load() {
		return nil, errDead
	}
	if req.Method == http.MethodGet {
		return i.read(req)
	}
	if strings.HasSuffix(req.URL.Path, "/events") {
		return i.next.RoundTrip(req)
	}
	last := i.writes.Add(1) == i.dieAt
	if last && i.chance(0.5) {
		i.end()
		return nil, errDead
	}
	if !last && i.chance(i.fail) {
		return nil, errNotSent
	}
	i.underway.Add(1)
	defer i.underway.Done()
	// What is under way arrives, though its sender dies. The next life waits for that, as it waits for a lease to run out: how could it
	// know of a pod that comes after it has looked?
	resp, err := i.next.RoundTrip(req.WithContext(context.WithoutCancel(req.Context())))
	if last {
		i.end()
	}
	if err == nil && (i.dead.Load() || i.chance(i.lose)) {
		_ = resp.Body.Close()
		return nil, errLost
	}
	return resp, err
}

func (i *ill) end() {
	i.dead.Store(true)
	i.die()
}

func (i infected) read(req *http.Request) (*http.Response, error) {
	watch := req.URL.Query().Get("watch") != ""
	if !watch && i.chance(i.fail) {
		return nil, errNotSent
	}
	resp, err := i.next.RoundTrip(req)
	if err == nil && watch && i.stall > 0 {
		resp.Body = &late{ReadCloser: resp.Body, ctx: req.Context(), ill: i.ill}
	}
	return resp, err
}

// late is the body of a watch that stands still now and then. In between it catches up, so that it is never later than the longest
// stall: that is what the checker's window is about.
type late struct {
	io.ReadCloser
	ctx  context.Context
	ill  *ill
	rest time.Time // it does not stand still before this
}

func (l *late) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if time.Now().After(l.rest) && l.ill.chance(0.1) {
		stall := l.ill.upTo(l.ill.stall)
		select {
		case <-l.ctx.Done():
		case <-time.After(stall):
		}
		l.rest = time.Now().Add(2 * stall)
	}
	return n, err
}

func (i *ill) wrap(next http.RoundTripper) http.RoundTripper { return infected{i, next} }

type infected struct {
	*ill
	next http.RoundTripper
}
