package env

import (
	"context"
	"maps"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	// restPerObject is how long an object that was looked at lets its owner rest. A look costs less than a microsecond of CPU time, so
	// an owner takes at most a fiftieth of a processor, and one write of its status in that time, however often its objects change.
	restPerObject = 50 * time.Microsecond
	// shortestRest is below what any client notices, and not worth a timer.
	shortestRest = time.Millisecond
)

// pacing makes wakes of one key fall together while it rests.
type pacing struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	rests map[ctrl.Request]time.Time // until when; those that are over go with the next one
}

type looked struct{}

// Looked tells that this reconcile had to look at n objects. The next one of its key waits the longer the more they are.
func Looked(ctx context.Context, n int) {
	if objects, ok := ctx.Value(looked{}).(*int); ok {
		*objects = n
	}
}

// paced lets a key rest after each look at its objects. After an error its back-off counts.
func (p *pacing) paced(r reconcile.Func) reconcile.Func {
	return func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		if wait := p.left(req); wait > 0 { // it was woken during the last look
			return ctrl.Result{RequeueAfter: wait}, nil
		}
		objects := 0
		result, err := r(context.WithValue(ctx, looked{}, &objects), req)
		if err == nil {
			p.rest(req, time.Duration(objects)*restPerObject)
		}
		return result, err
	}
}

func (p *pacing) rest(req ctrl.Request, long time.Duration) {
	if long < shortestRest {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	maps.DeleteFunc(p.rests, func(_ ctrl.Request, until time.Time) bool { return !until.After(now) })
	p.rests[req] = now.Add(long)
}

func (p *pacing) left(req ctrl.Request) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until, ok := p.rests[req]; ok {
		return until.Sub(p.clock.Now())
	}
	return 0
}

// queue returns a queue for keys that are paced.
func (p *pacing) queue(name string, limiter workqueue.TypedRateLimiter[ctrl.Request]) Queue {
	return pacedQueue{workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[ctrl.Request]{Name: name}), p}
}

type pacedQueue struct {
	Queue
	*pacing
}

func (q pacedQueue) Add(req ctrl.Request) {
	if wait := q.left(req); wait > 0 {
		q.AddAfter(req, wait)
		return
	}
	q.Queue.Add(req)
}
