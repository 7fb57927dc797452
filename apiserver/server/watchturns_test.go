package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// sendWriter is a client's connection: each Flush lasts as long as send.
type sendWriter struct {
	*httptest.ResponseRecorder
	send func()
}

func (w sendWriter) Flush() { w.send() }

func TestFewWatchesSendAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newTurns(3)
		var mu sync.Mutex
		var sending, most, sent int
		for i := range 100 {
			w := newTurnWriter(sendWriter{httptest.NewRecorder(), func() {
				mu.Lock()
				sending++
				most = max(most, sending)
				mu.Unlock()
				<-time.After(time.Millisecond)
				mu.Lock()
				sending--
				sent++
				mu.Unlock()
			}}, shared, fmt.Sprint("user-", i%7))
			go func() {
				for range 5 {
					_, _ = w.Write([]byte("event"))
					w.Flush()
				}
			}()
		}
		synctest.Wait()
		<-time.After(time.Second)
		synctest.Wait()
		if most != 3 || sent != 500 {
			t.Errorf("%d sent at a time and %d in all, want 3 and 500", most, sent)
		}
		if shared.free != 3 || len(shared.waiting) != 0 || len(shared.users) != 0 {
			t.Errorf("left: %+v", shared)
		}
	})
}

func TestWatchesOfUsersInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newTurns(1)
		var order []string // one sends at a time
		watch := func(user string) {
			w := newTurnWriter(sendWriter{httptest.NewRecorder(), func() {
				order = append(order, user)
				<-time.After(time.Millisecond)
			}}, shared, user)
			go w.Flush()
			synctest.Wait()
		}
		for range 50 {
			watch("flood")
		}
		watch("other")
		watch("third")
		<-time.After(time.Second)
		synctest.Wait()
		if other, third := slices.Index(order, "other"), slices.Index(order, "third"); len(order) != 52 || other > 2 || third > 3 {
			t.Errorf("of %d, other came as %d and third as %d: %v", len(order), other, third, order[:5])
		}
	})
}

func TestWatchThatBlocksPassesItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newTurns(1)
		blocked := make(chan struct{})
		stuck := newTurnWriter(sendWriter{httptest.NewRecorder(), func() { <-blocked }}, shared, "stuck")
		go stuck.Flush()
		synctest.Wait()
		quick := newTurnWriter(sendWriter{httptest.NewRecorder(), func() {}}, shared, "quick")
		began := time.Now()
		quick.Flush()
		if waited := time.Since(began); waited != turnAtMost {
			t.Errorf("waited %s, want %s", waited, turnAtMost)
		}
		close(blocked)
		synctest.Wait()
		if !stuck.slow || shared.free != 1 {
			t.Errorf("slow %v, free %d", stuck.slow, shared.free)
		}
		// Nobody waits for one that is known to be slow.
		blocked = make(chan struct{})
		go stuck.Flush()
		synctest.Wait()
		began = time.Now()
		quick.Flush()
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %s for a slow one", waited)
		}
		<-time.After(time.Second)
		close(blocked)
		synctest.Wait()
		stuck.Flush()
		if stuck.slow || shared.free != 1 {
			t.Errorf("after a quick one: slow %v, free %d", stuck.slow, shared.free)
		}
	})
}

// A handler may end after a write that it did not flush.
func TestWatchThatEndsPassesItsTurn(t *testing.T) {
	handler := watchesTakeTurns(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("event")) }))
	for _, verb := range []string{"watch", "get"} {
		for range 100 { // more than there are turns
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			ctx := request.WithUser(request.WithRequestInfo(r.Context(), &request.RequestInfo{Verb: verb}), &user.DefaultInfo{Name: "u"})
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r.WithContext(ctx))
			if w.Body.String() != "event" {
				t.Fatalf("wrote %q", w.Body)
			}
		}
	}
}
