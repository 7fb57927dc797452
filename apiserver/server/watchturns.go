package server

import (
	"net/http"
	"runtime"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
)

const (
	// turnsPerProcessor is how many watches send at a time.
	turnsPerProcessor = 1
	// turnAtMost is how long a watch keeps the others waiting whose client does not read: sending what is small takes microseconds.
	turnAtMost = 10 * time.Millisecond
)

// watchesTakeTurns has few watches send at a time, users in turn. A change that thousands watch would otherwise make thousands of goroutines
// runnable at once, and a request, which takes a dozen steps on several goroutines, would wait behind all of them at each (ADR 3).
func watchesTakeTurns(handler http.Handler) http.Handler {
	t := newTurns(turnsPerProcessor * runtime.GOMAXPROCS(0))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if info, ok := request.RequestInfoFrom(ctx); !ok || info.Verb != "watch" {
			handler.ServeHTTP(w, r)
			return
		}
		user := ""
		if u, ok := request.UserFrom(ctx); ok {
			user = u.GetName()
		}
		turn := newTurnWriter(w, t, user)
		defer turn.end()
		handler.ServeHTTP(responsewriter.WrapForHTTP1Or2(turn), r)
	})
}

// turns is a semaphore that is handed from user to user, among those of one user first come, first served.
type turns struct {
	mu      sync.Mutex
	free    int
	waiting map[string][]chan struct{} // by user
	users   []string                   // those with somebody waiting, next first
}

func newTurns(places int) *turns { return &turns{free: places, waiting: map[string][]chan struct{}{}} }

// take waits for a turn. The channel, which must hold one value, tells that it has come.
func (t *turns) take(user string, come chan struct{}) {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return
	}
	if len(t.waiting[user]) == 0 {
		t.users = append(t.users, user)
	}
	t.waiting[user] = append(t.waiting[user], come)
	t.mu.Unlock()
	<-come
}

// pass hands a turn to who is next.
func (t *turns) pass() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.users) == 0 {
		t.free++
		return
	}
	user := t.users[0]
	t.users = t.users[1:]
	waiting := t.waiting[user]
	waiting[0] <- struct{}{}
	if len(waiting) == 1 {
		delete(t.waiting, user)
		return
	}
	t.waiting[user] = waiting[1:]
	t.users = append(t.users, user)
}

// turnWriter takes a turn for what is written up to each Flush. A turn that takes too long is passed on before its end, and its watch sends
// without one until it is quick again: a client that does not read delays others once.
type turnWriter struct {
	http.ResponseWriter
	turns *turns
	user  string
	come  chan struct{}
	limit *time.Timer // passes the turn

	sending bool
	slow    bool
	began   time.Time // of sending when slow
}

func newTurnWriter(w http.ResponseWriter, t *turns, user string) *turnWriter {
	limit := time.AfterFunc(time.Hour, t.pass)
	limit.Stop()
	return &turnWriter{ResponseWriter: w, turns: t, user: user, come: make(chan struct{}, 1), limit: limit}
}

// Unwrap implements responsewriter.UserProvidedDecorator.
func (w *turnWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write implements http.ResponseWriter.
func (w *turnWriter) Write(data []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(data)
}

// Flush implements http.Flusher.
func (w *turnWriter) Flush() {
	w.begin()
	defer w.end()
	if flusher, ok := w.ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
}

func (w *turnWriter) begin() {
	switch {
	case w.sending:
		return
	case w.slow:
		w.began = time.Now()
	default:
		w.turns.take(w.user, w.come)
		// Who is handed something runs next in Go, before those that wait longer: turns handed on and on would starve these for seconds.
		runtime.Gosched()
		w.limit.Reset(turnAtMost)
	}
	w.sending = true
}

func (w *turnWriter) end() {
	switch {
	case !w.sending:
		return
	case w.slow:
		w.slow = time.Since(w.began) > turnAtMost
	case w.limit.Stop():
		w.turns.pass()
	default:
		w.slow = true
	}
	w.sending = false
}
