// Package queue holds the pods that wait for a node and decides which one is tried next and when a refused one is tried again.
//
// A pending pod is in exactly one place:
//
//	gated/unschedulable --event with a hint--> backoff --time--> active --Pop--> in flight --Done--> (bound)
//	        ^------------------------------- AddUnschedulable ---------------------'
//
// Events that arrive while a pod is in flight are kept, and replayed when it comes back refused: what changed during its
// attempt may be just what it needs.
package queue

import (
	"container/heap"
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/utils/clock"

	"keelson.dev/scheduler/nodeinfo"
)

// NoNodes is the rejector of a pod that was tried while the cluster had no node at all.
const NoNodes = "NoNodes"

// Hint is one reason to try a pod again: the event happened, and the plugin that refused the pod says that it may help.
type Hint struct {
	Plugin string
	Event  fwk.ClusterEvent
	Fn     fwk.QueueingHintFn // nil means that it always helps
}

// Config is what a queue needs to know.
type Config struct {
	Clock          clock.Clock
	InitialBackoff time.Duration // default 1 s
	MaxBackoff     time.Duration // default 10 s
	// MaxUnschedulable bounds how long a pod waits for an event, in case a plugin's hints miss one. Default 5 min.
	MaxUnschedulable time.Duration
	Less             fwk.LessFunc
	// PreEnqueue and Hints are per profile, by scheduler name.
	PreEnqueue map[string][]fwk.PreEnqueuePlugin
	Hints      map[string][]Hint
}

// Queue is safe for concurrent use.
type Queue struct {
	cfg       Config
	Nominator *Nominator

	mu            sync.Mutex
	cond          *sync.Cond
	active        podHeap
	backoff       podHeap
	unschedulable map[types.UID]*Pod
	// rejectedBy finds the unschedulable pods by the plugins that refused them, so that an event is tried on those that it may help.
	rejectedBy map[string]map[types.UID]*Pod
	where      map[types.UID]place
	inFlight   map[types.UID]*flight
	events     []event // since the oldest flight began
	eventBase  int     // sequence number of events[0]
	// scanAt is when the unschedulable pods are next looked through for those that have waited too long.
	scanAt time.Time
	closed bool
	wake   chan struct{} // tells the timer that its next deadline may have changed
}

type place struct {
	pod *Pod
	in  *podHeap // nil: unschedulable
}

type flight struct {
	newer *nodeinfo.PodInfo // what the API server has shown since Pop
	since int               // sequence number of the first event to replay
}

type event struct {
	fwk.ClusterEvent
	old, new any
	// only names the pod that the event is for, empty for all.
	only types.UID
}

// New returns an empty queue.
func New(cfg Config) *Queue {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	setDefault(&cfg.InitialBackoff, time.Second)
	setDefault(&cfg.MaxBackoff, 10*time.Second)
	setDefault(&cfg.MaxUnschedulable, 5*time.Minute)
	q := &Queue{
		cfg:           cfg,
		Nominator:     newNominator(),
		unschedulable: map[types.UID]*Pod{},
		rejectedBy:    map[string]map[types.UID]*Pod{},
		where:         map[types.UID]place{},
		inFlight:      map[types.UID]*flight{},
		wake:          make(chan struct{}, 1),
	}
	q.cond = sync.NewCond(&q.mu)
	q.active.less = func(a, b *Pod) bool { return cfg.Less(a, b) }
	q.backoff.less = func(a, b *Pod) bool { return a.BackoffExpiry.Before(b.BackoffExpiry) }
	return q
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Run moves pods whose back-off is over until ctx ends, then closes the queue.
func (q *Queue) Run(ctx context.Context) {
	defer q.Close()
	timer := q.cfg.Clock.NewTimer(q.cfg.MaxUnschedulable)
	defer timer.Stop()
	for {
		wait := q.nextDeadline()
		if wait == 0 {
			q.flush(ctx)
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-timer.C():
		case <-q.wake:
		}
	}
}

// Close makes Pop return nil.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.cond.Broadcast()
}

// nextDeadline returns how long it takes until the next pod must be moved.
func (q *Queue) nextDeadline() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.cfg.Clock.Now()
	next := now.Add(q.cfg.MaxUnschedulable)
	if q.backoff.Len() > 0 && q.backoff.pods[0].BackoffExpiry.Before(next) {
		next = q.backoff.pods[0].BackoffExpiry
	}
	if len(q.unschedulable) > 0 && q.scanAt.Before(next) {
		next = q.scanAt
	}
	return max(next.Sub(now), 0)
}

func (q *Queue) flush(ctx context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.cfg.Clock.Now()
	for q.backoff.Len() > 0 && !q.backoff.pods[0].BackoffExpiry.After(now) {
		q.moveTo(&q.active, q.backoff.pods[0])
	}
	if now.Before(q.scanAt) {
		return
	}
	q.scanAt = now.Add(q.cfg.MaxUnschedulable)
	for _, p := range q.unschedulable {
		if p.GatedBy == "" && !p.Timestamp.Add(q.cfg.MaxUnschedulable).After(now) {
			q.enqueue(ctx, p, true)
		}
	}
}

// Pop waits for the pod to try next. It returns nil when the queue is closed. The caller must call Done for it, or
// AddUnschedulable, which includes Done.
func (q *Queue) Pop() *Pod {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.closed {
			return nil
		}
		if p := q.next(); p != nil {
			q.remove(p)
			p.Attempts++
			if p.FirstAttempt.IsZero() {
				p.FirstAttempt = q.cfg.Clock.Now()
			}
			p.Rejectors, p.Pending = sets.New[string](), sets.New[string]()
			q.inFlight[p.GetPod().UID] = &flight{since: q.eventBase + len(q.events)}
			return p
		}
		q.cond.Wait()
	}
}

// next returns the best active pod or, while nothing else is to be done, one whose back-off is not over: back-off protects other
// pods from it, and there are none. After an error it is waited out in any case, to spare the API server.
func (q *Queue) next() *Pod {
	if q.active.Len() > 0 {
		return q.active.pods[0]
	}
	for _, p := range q.backoff.pods {
		if p.Errors == 0 {
			return p
		}
	}
	return nil
}

// Done ends the flight of a pod that needs no other try.
func (q *Queue) Done(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.done(uid)
}

func (q *Queue) done(uid types.UID) {
	f, ok := q.inFlight[uid]
	delete(q.inFlight, uid)
	if !ok || len(q.events) == 0 || f.since > q.eventBase {
		return // an older flight needs the events still
	}
	oldest := q.eventBase + len(q.events)
	for _, f := range q.inFlight {
		oldest = min(oldest, f.since)
	}
	q.events = q.events[oldest-q.eventBase:]
	q.eventBase = oldest
	if len(q.events) == 0 {
		q.events = nil
	}
}

// Add puts a new pending pod into the queue.
func (q *Queue) Add(ctx context.Context, info *nodeinfo.PodInfo) {
	q.mu.Lock()
	defer q.mu.Unlock()
	pod := info.GetPod()
	if _, ok := q.where[pod.UID]; ok {
		return
	}
	if _, ok := q.inFlight[pod.UID]; ok {
		return
	}
	p := &Pod{PodInfo: info, Timestamp: q.cfg.Clock.Now(), Rejectors: sets.New[string](), Pending: sets.New[string]()}
	q.Nominator.add(info, nil)
	q.enqueue(ctx, p, false)
}

// Update replaces a pending pod by its newer version and tries it again if the change may help.
func (q *Queue) Update(ctx context.Context, old *corev1.Pod, info *nodeinfo.PodInfo) {
	q.mu.Lock()
	defer q.mu.Unlock()
	pod := info.GetPod()
	changes := PodChanges(old, pod)
	if f, ok := q.inFlight[pod.UID]; ok {
		f.newer = info
		for _, ce := range changes {
			q.record(event{ClusterEvent: ce, old: old, new: pod, only: pod.UID})
		}
		return
	}
	at, ok := q.where[pod.UID]
	if !ok {
		p := &Pod{PodInfo: info, Timestamp: q.cfg.Clock.Now(), Rejectors: sets.New[string](), Pending: sets.New[string]()}
		q.Nominator.add(info, nil)
		q.enqueue(ctx, p, false)
		return
	}
	q.Nominator.update(old, info)
	at.pod.PodInfo = info
	if at.in != nil {
		heap.Fix(at.in, at.pod.index)
		return
	}
	for _, ce := range changes {
		if q.react(ctx, at.pod, event{ClusterEvent: ce, old: old, new: pod}) {
			return
		}
	}
}

// Delete removes a pod that was deleted, or that something else has bound.
func (q *Queue) Delete(pod *corev1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.Nominator.DeleteNominatedPodIfExists(pod)
	if at, ok := q.where[pod.UID]; ok {
		q.remove(at.pod)
	}
}

// AddUnschedulable takes back a pod whose attempt failed. Its Rejectors and Pending say who refused it; with both empty it
// failed with an error and is tried again after its back-off.
func (q *Queue) AddUnschedulable(ctx context.Context, p *Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	uid := p.GetPod().UID
	f, ok := q.inFlight[uid]
	if !ok {
		return
	}
	replay := q.events[f.since-q.eventBase:]
	defer q.done(uid)
	if f.newer != nil {
		p.PodInfo = f.newer
	}

	p.Timestamp = q.cfg.Clock.Now()
	failed := p.Rejectors.Len() == 0 && p.Pending.Len() == 0
	if failed {
		p.Errors++
	} else {
		p.Errors = 0
		p.Unschedulable++
	}
	p.BackoffExpiry = p.Timestamp.Add(q.backoffOf(p))
	q.Nominator.add(p.PodInfo, nil)
	if failed {
		q.enqueue(ctx, p, true)
		return
	}
	q.park(p)
	for _, ev := range replay {
		if ev.only != "" && ev.only != uid {
			continue
		}
		if q.react(ctx, p, ev) {
			return
		}
	}
}

func (q *Queue) backoffOf(p *Pod) time.Duration {
	count := p.Unschedulable
	if p.Errors > 0 {
		count = p.Errors
	}
	d := q.cfg.InitialBackoff
	for i := 1; i < count && d < q.cfg.MaxBackoff; i++ {
		d *= 2
	}
	return min(d, q.cfg.MaxBackoff)
}

// Pending returns how many pods are waiting, active and in back-off and unschedulable, without those in flight.
func (q *Queue) Pending() (active, backoff, unschedulable int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.active.Len(), q.backoff.Len(), len(q.unschedulable)
}

// enqueue asks the PreEnqueue plugins and puts the pod where it belongs: into the active heap, or into the back-off heap if that
// is asked for and the back-off is not over, or among the gated.
func (q *Queue) enqueue(ctx context.Context, p *Pod, withBackoff bool) {
	for _, plugin := range q.cfg.PreEnqueue[p.GetPod().Spec.SchedulerName] {
		if status := plugin.PreEnqueue(ctx, p.GetPod()); !status.IsSuccess() {
			if _, parked := q.unschedulable[p.GetPod().UID]; parked && p.GatedBy == plugin.Name() {
				return // it is where it belongs
			}
			p.GatedBy = plugin.Name()
			p.Rejectors.Insert(plugin.Name())
			q.park(p)
			return
		}
	}
	p.GatedBy = ""
	if withBackoff && p.BackoffExpiry.After(q.cfg.Clock.Now()) {
		q.moveTo(&q.backoff, p)
		return
	}
	q.moveTo(&q.active, p)
}

func (q *Queue) park(p *Pod) {
	q.remove(p)
	if len(q.unschedulable) == 0 {
		q.scanAt = q.cfg.Clock.Now().Add(q.cfg.MaxUnschedulable)
	}
	q.unschedulable[p.GetPod().UID] = p
	q.where[p.GetPod().UID] = place{pod: p}
	q.index(p)
	q.signal()
}

// index notes who refused a pod. With a gate only that counts.
func (q *Queue) index(p *Pod) {
	p.indexed = append(sets.List(p.Rejectors), sets.List(p.Pending)...)
	if p.GatedBy != "" {
		p.indexed = []string{p.GatedBy}
	}
	for _, plugin := range p.indexed {
		if q.rejectedBy[plugin] == nil {
			q.rejectedBy[plugin] = map[types.UID]*Pod{}
		}
		q.rejectedBy[plugin][p.GetPod().UID] = p
	}
}

func (q *Queue) moveTo(h *podHeap, p *Pod) {
	q.remove(p)
	heap.Push(h, p)
	q.where[p.GetPod().UID] = place{pod: p, in: h}
	q.cond.Signal()
	if h == &q.backoff {
		q.signal()
	}
}

func (q *Queue) remove(p *Pod) {
	uid := p.GetPod().UID
	at, ok := q.where[uid]
	if !ok {
		return
	}
	if at.in != nil {
		heap.Remove(at.in, at.pod.index)
	}
	delete(q.unschedulable, uid)
	for _, plugin := range p.indexed {
		delete(q.rejectedBy[plugin], uid)
	}
	p.indexed = nil
	delete(q.where, uid)
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Activate implements fwk.PodActivator.
func (q *Queue) Activate(_ klog.Logger, pods map[string]*corev1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, pod := range pods {
		if at, ok := q.where[pod.UID]; ok && at.in != &q.active {
			q.enqueue(context.Background(), at.pod, false)
			continue
		}
		if _, ok := q.inFlight[pod.UID]; ok {
			wildcard := fwk.ClusterEvent{Resource: fwk.WildCard, ActionType: fwk.All, CustomLabel: "Activate"}
			q.record(event{ClusterEvent: wildcard, only: pod.UID})
		}
	}
}
