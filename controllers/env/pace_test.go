package env

import (
	"context"
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	testingclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
)

func TestPacing(t *testing.T) {
	large := ctrl.Request{NamespacedName: types.NamespacedName{Name: "large"}}
	small := ctrl.Request{NamespacedName: types.NamespacedName{Name: "small"}}
	broken := ctrl.Request{NamespacedName: types.NamespacedName{Name: "broken"}}
	clk := testingclock.NewFakeClock(time.Unix(1000, 0))
	p := &pacing{clock: clk, rests: map[ctrl.Request]time.Time{}}
	looks := map[ctrl.Request]int{}
	reconcile := p.paced(func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		looks[req]++
		switch req {
		case small:
			Looked(ctx, 10)
		case large:
			Looked(ctx, 5000)
		case broken:
			Looked(ctx, 5000)
			return ctrl.Result{}, errors.New("no")
		}
		return ctrl.Result{}, nil
	})
	var waits []time.Duration
	for range 3 {
		for _, req := range []ctrl.Request{small, large, broken} {
			result, _ := reconcile(t.Context(), req)
			if req == large {
				waits = append(waits, result.RequeueAfter)
			}
		}
	}
	if looks[small] != 3 || looks[broken] != 3 || looks[large] != 1 || waits[2] != 5000*restPerObject {
		t.Errorf("looks %v, waits %v", looks, waits)
	}
	q := p.queue("", workqueue.NewTypedItemExponentialFailureRateLimiter[ctrl.Request](time.Second, time.Second))
	defer q.ShutDown()
	q.Add(large) // comes when the rest is over
	q.Add(small)
	if q.Len() != 1 {
		t.Errorf("%d wakes, want one", q.Len())
	}
	clk.Step(5000 * restPerObject)
	q.Add(large)
	if q.Len() != 2 {
		t.Errorf("%d wakes after the rest, want two", q.Len())
	}
}
