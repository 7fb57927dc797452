package queue

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	clocktesting "k8s.io/utils/clock/testing"

	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/plugins/prioritysort"
)

const name = corev1.DefaultSchedulerName

func newPod(id string, priority int32) *nodeinfo.PodInfo {
	info, err := nodeinfo.NewPodInfo(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: id, UID: types.UID(id)},
		Spec:       corev1.PodSpec{SchedulerName: name, Priority: &priority},
	})
	if err != nil {
		panic(err)
	}
	return info
}

var (
	nodeAdded = fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add}
	podGone   = fwk.ClusterEvent{Resource: fwk.AssignedPod, ActionType: fwk.Delete}
)

// newQueue has two plugins: Fit reacts to new nodes that are called "good", Ports to pods that go.
func newQueue(t *testing.T) (*Queue, *clocktesting.FakeClock) {
	clock := clocktesting.NewFakeClock(time.Now())
	q := New(Config{
		Clock: clock, Less: prioritysort.Plugin{}.Less,
		Hints: map[string][]Hint{name: {
			{Plugin: "Fit", Event: nodeAdded, Fn: func(_ klog.Logger, _ *corev1.Pod, _, obj any) (fwk.QueueingHint, error) {
				if obj.(*corev1.Node).Name == "good" {
					return fwk.Queue, nil
				}
				return fwk.QueueSkip, nil
			}},
			{Plugin: "Ports", Event: fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.Delete}},
		}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); q.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return q, clock
}

func node(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }

// refuse gives a popped pod back, refused by the plugin; without one it failed with an error.
func refuse(t *testing.T, q *Queue, p *Pod, plugin string) {
	t.Helper()
	if plugin != "" {
		p.Rejectors.Insert(plugin)
	}
	q.AddUnschedulable(t.Context(), p)
}

func expect(t *testing.T, q *Queue, active, backoff, unschedulable int) {
	t.Helper()
	if a, b, u := q.Pending(); a != active || b != backoff || u != unschedulable {
		t.Errorf("active %d, backoff %d, unschedulable %d; want %d, %d, %d", a, b, u, active, backoff, unschedulable)
	}
}

func TestOrder(t *testing.T) {
	q, clock := newQueue(t)
	for _, p := range []*nodeinfo.PodInfo{newPod("first", 0), newPod("second", 0), newPod("urgent", 10)} {
		q.Add(t.Context(), p)
		clock.Step(time.Millisecond)
	}
	for _, want := range []string{"urgent", "first", "second"} {
		if got := q.Pop().Pod().Name; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestOnlyAHelpfulEventRequeues(t *testing.T) {
	q, _ := newQueue(t)
	q.Add(t.Context(), newPod("p", 0))
	refuse(t, q, q.Pop(), "Fit")
	expect(t, q, 0, 0, 1)
	q.Happened(t.Context(), podGone, &corev1.Pod{}, nil) // another plugin's event
	q.Happened(t.Context(), nodeAdded, nil, node("bad")) // the hint says no
	expect(t, q, 0, 0, 1)
	q.Happened(t.Context(), nodeAdded, nil, node("good"))
	expect(t, q, 0, 1, 0)
}

func TestEventDuringAnAttemptIsNotLost(t *testing.T) {
	q, _ := newQueue(t)
	q.Add(t.Context(), newPod("p", 0))
	p := q.Pop()
	q.Happened(t.Context(), nodeAdded, nil, node("good"))
	refuse(t, q, p, "Fit")
	expect(t, q, 0, 1, 0)

	p = q.Pop() // nothing else is active, so back-off does not hold it
	refuse(t, q, p, "Fit")
	expect(t, q, 0, 0, 1) // the event from before the attempt does not count again
	if len(q.events) != 0 {
		t.Errorf("%d events are kept though no pod is in flight", len(q.events))
	}
}

func TestBackoff(t *testing.T) {
	q, clock := newQueue(t)
	q.Add(t.Context(), newPod("p", 0))
	for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		p := q.Pop()
		began := clock.Now()
		refuse(t, q, p, "") // an error: back-off is waited out in any case
		if got := p.BackoffExpiry.Sub(began); got != want*time.Second {
			t.Errorf("back-off is %v, want %v", got, want*time.Second)
		}
		expect(t, q, 0, 1, 0)
		waitForTimer(t, clock)
		clock.Step(want * time.Second)
	}
}

// waitForTimer waits until the queue's loop sleeps, so that a step of the clock wakes it.
func waitForTimer(t *testing.T, clock *clocktesting.FakeClock) {
	t.Helper()
	for !clock.HasWaiters() {
		if t.Context().Err() != nil {
			t.Fatal("the queue does not wait for its clock")
		}
	}
}

func TestUpdateOfAPodInFlight(t *testing.T) {
	q, _ := newQueue(t)
	q.Add(t.Context(), newPod("p", 0))
	p := q.Pop()
	newer := newPod("p", 0)
	newer.GetPod().Labels = map[string]string{"new": "yes"}
	q.Update(t.Context(), p.Pod(), newer)
	refuse(t, q, p, "Fit")
	q.Happened(t.Context(), nodeAdded, nil, node("good"))
	if got := q.Pop().Pod().Labels["new"]; got != "yes" {
		t.Error("the queue forgot the newer version of the pod")
	}
}

func TestTooManyEventsBecomeOne(t *testing.T) {
	q, _ := newQueue(t)
	q.Add(t.Context(), newPod("p", 0))
	p := q.Pop()
	for range maxEvents + 5 {
		q.Happened(t.Context(), nodeAdded, nil, node("bad"))
	}
	if len(q.events) > maxEvents {
		t.Errorf("%d events are kept, the limit is %d", len(q.events), maxEvents)
	}
	refuse(t, q, p, "Fit")
	expect(t, q, 0, 1, 0) // it is tried again, to be safe
}
