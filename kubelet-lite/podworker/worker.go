package podworker

import (
	"context"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/klog/v2"

	"keelson.dev/internal/features"
	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/metrics"
	"keelson.dev/kubelet-lite/podplan"
	"keelson.dev/kubelet-lite/podstatus"
	"keelson.dev/kubelet-lite/probes"
)

// worker owns one pod. The first group of fields is how others reach it; the rest belongs to its goroutine.
type worker struct {
	m    *Manager
	wake chan struct{}
	done chan func() // outcomes of actions

	began time.Time // when the pod was seen first

	mu       sync.Mutex
	pod      *corev1.Pod
	stop     *podplan.Stop
	removed  bool // gone from its source
	stale    bool // what the runtime told is no longer so
	news     bool // the runtime has told of a change
	retry    bool // setbacks of the volumes are void
	seen     *cri.Pod
	released bool // stopped, and its volumes and cgroups are gone

	inFlight  map[podplan.Key]*action
	setbacks  map[podplan.Key]podplan.Setback
	images    map[string]podplan.Image
	doomed    map[string]string
	messages  map[string]string
	volumes   bool
	handler   string
	backedOff map[string]string // container → instance whose back-off was told
	last      *corev1.PodStatus // last reported
	resources resourceState
	placed    map[string]string // container ID → the CPUs that it was given since its start
	restored  bool
	forgiven  map[string]bool // IDs of containers that owe no back-off
	purged    bool
	synced    *corev1.Pod // the spec that the volumes know
}

func newWorker(m *Manager, pod *corev1.Pod) *worker {
	w := &worker{
		m: m, pod: pod, began: m.cfg.Clock.Now(), stale: true, wake: make(chan struct{}, 1), done: make(chan func()),
		inFlight: map[podplan.Key]*action{}, setbacks: map[podplan.Key]podplan.Setback{}, images: map[string]podplan.Image{},
		doomed: map[string]string{}, messages: map[string]string{}, backedOff: map[string]string{}, placed: map[string]string{},
	}
	w.wake <- struct{}{}
	return w
}

// update changes what others may change, and wakes the worker.
func (w *worker) update(change func()) {
	w.mu.Lock()
	change()
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it is awake already
	}
}

func (w *worker) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logger := klog.FromContext(ctx).WithValues("pod", klog.KObj(w.pod))
	ctx = klog.NewContext(ctx, logger)
	timer := w.m.cfg.Clock.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C():
		case outcome := <-w.done:
			outcome()
		}
		again, over := w.sync(ctx)
		if over {
			w.forget()
			return
		}
		timer.Stop()
		if !again.IsZero() {
			timer = w.m.cfg.Clock.NewTimer(max(again.Sub(w.m.cfg.Clock.Now()), time.Millisecond))
		}
	}
}

// sync is one round. It returns when the next is due at the latest, and whether there is nothing left to do, ever.
func (w *worker) sync(ctx context.Context) (again time.Time, over bool) {
	now := w.m.cfg.Clock.Now()
	kind := "sync"
	if w.last == nil {
		kind = "create"
	}
	defer func() { metrics.PodWorker.WithLabelValues(kind).Observe(w.m.cfg.Clock.Since(now).Seconds()) }()
	settled := w.settled(now)
	pod, stop, removed, seen, err := w.observe(ctx, settled.IsZero())
	if err != nil {
		klog.FromContext(ctx).Info("Runtime not observed, will try again", "err", err)
		return now.Add(observeRetry), false
	}
	w.restore(pod, seen)
	w.refresh(ctx, pod)
	pod = w.allocate(pod)
	observed := w.observed(seen, stop)
	observed.Resize = w.compare(pod, seen)
	plan := podplan.For(pod, observed, now)
	if plan.Terminating {
		w.dropStarts()
	}
	w.tellBackOffs(pod, seen, plan)
	for _, a := range plan.Actions {
		w.execute(ctx, pod, seen, a)
	}
	w.syncProbes(ctx, pod, seen, plan.Terminating)
	if plan.Done && !w.released {
		w.release(ctx, pod)
	}
	observed.InFlight = w.flight()
	// Resources are handed back before the API says so: who sees a terminal phase may use them.
	if plan.Done && !w.released {
		plan.Done = false
	}
	w.report(pod, observed, plan, removed)
	again = plan.Again
	if !settled.IsZero() && (again.IsZero() || settled.Before(again)) {
		again = settled
	}
	if removed && plan.Done {
		return again, w.purge(ctx, pod, seen)
	}
	return again, false
}

// settled is when to look at the runtime's news at the latest; zero: now. A step under way makes several events and is looked at when
// it is done, once, unless it takes long.
func (w *worker) settled(now time.Time) (at time.Time) {
	for key, a := range w.inFlight {
		switch key.Kind {
		case podplan.CreateSandbox, podplan.Start, podplan.StopSandbox, podplan.RemoveSandbox, podplan.RemoveContainer:
			if limit := a.began.Add(longStep); limit.After(now) && (at.IsZero() || limit.Before(at)) {
				at = limit
			}
		default: // waits for something else, or changes nothing in the runtime
		}
	}
	return at
}

// observe asks the runtime if what it told is no longer so, and if it has news, unless those are to wait.
func (w *worker) observe(ctx context.Context, news bool) (*corev1.Pod, *podplan.Stop, bool, *cri.Pod, error) {
	w.mu.Lock()
	pod, stop, removed, stale, seen := w.pod, w.stop, w.removed, w.stale, w.seen
	if w.retry {
		delete(w.setbacks, podplan.Key{Kind: podplan.SetUpVolumes})
		w.retry = false
	}
	if news {
		stale = stale || w.news
	}
	if stale || seen == nil {
		w.stale, w.news = false, false
	}
	w.mu.Unlock()
	if removed && stop == nil {
		stop = &podplan.Stop{}
	}
	if stale || seen == nil {
		fresh, err := w.m.cfg.Runtime.Pod(ctx, pod.UID)
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil {
			w.stale = true
			return nil, nil, false, nil, err
		}
		w.forgive(fresh)
		seen, w.seen = fresh, fresh
	}
	return w.withStatus(pod), stop, removed, seen, nil
}

// forgive lets containers start at once that ended with their whole pod before this agent was there, as in a power cut: they have not
// crashed. Without that, every cut would double what all pods of a node wait.
func (w *worker) forgive(seen *cri.Pod) {
	if w.forgiven == nil {
		w.forgiven = map[string]bool{}
		if s := seen.Sandbox(); s == nil || !s.Ready {
			for _, c := range seen.Containers {
				w.forgiven[c.ID] = true
			}
		}
	}
	for _, c := range seen.Containers {
		if w.forgiven[c.ID] {
			c.BackOff = 0
		}
	}
}

// withStatus puts the status that was last reported into the pod, since the API's copy may lag behind, and keeps from the API what
// others write there.
func (w *worker) withStatus(pod *corev1.Pod) *corev1.Pod {
	if w.last == nil {
		return pod
	}
	out := *pod
	out.Status = *w.last
	out.Status.Conditions = nil
	for _, c := range w.last.Conditions {
		if ownCondition(c.Type) {
			out.Status.Conditions = append(out.Status.Conditions, c)
		}
	}
	for _, c := range pod.Status.Conditions {
		if !ownCondition(c.Type) {
			out.Status.Conditions = append(out.Status.Conditions, c)
		}
	}
	if podplan.IsTerminal(pod.Status.Phase) && !podplan.IsTerminal(out.Status.Phase) {
		out.Status.Phase, out.Status.Reason, out.Status.Message = pod.Status.Phase, pod.Status.Reason, pod.Status.Message
	}
	return &out
}

// ownCondition reports whether a condition is this agent's to write.
func ownCondition(t corev1.PodConditionType) bool {
	switch t {
	case corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
		corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting:
		return true
	default:
		return false
	}
}

func (w *worker) observed(seen *cri.Pod, stop *podplan.Stop) podplan.Observed {
	o := podplan.Observed{
		Pod: seen, HostIPs: w.m.cfg.HostIPs(), Volumes: w.volumes, Setbacks: maps.Clone(w.setbacks), Images: maps.Clone(w.images),
		Doomed: w.doomed, Stop: stop, InFlight: w.flight(), Probes: map[string]podplan.Probes{}, Messages: w.messages,
	}
	for _, c := range seen.Containers {
		switch c.State {
		case cri.Running:
			o.Probes[c.ID] = w.m.cfg.Probes.Results(seen.UID, c.ID)
		case cri.Exited:
			if _, known := w.messages[c.ID]; !known {
				w.messages[c.ID] = terminationMessage(c)
			}
		default: // has neither
		}
	}
	return o
}

// refresh brings a changed spec to the volumes, whose contents may show labels and annotations, and which new ephemeral containers
// may use.
func (w *worker) refresh(ctx context.Context, pod *corev1.Pod) {
	if w.synced == nil {
		w.synced = pod
	}
	old := w.synced
	if old.ResourceVersion == pod.ResourceVersion && old.Generation == pod.Generation {
		return
	}
	w.synced = pod
	if len(old.Spec.EphemeralContainers) != len(pod.Spec.EphemeralContainers) {
		w.volumes = false
	}
	if w.volumes && (!maps.Equal(old.Labels, pod.Labels) || !maps.Equal(old.Annotations, pod.Annotations)) {
		w.m.cfg.Volumes.Refresh(ctx, pod)
	}
}

func (w *worker) flight() map[podplan.Key]podplan.InFlight {
	out := make(map[podplan.Key]podplan.InFlight, len(w.inFlight))
	for key, a := range w.inFlight {
		out[key] = podplan.InFlight{Grace: a.Grace, Wait: a.Wait}
	}
	return out
}

// restore takes over, once, what the API says about containers that ran before this agent did.
func (w *worker) restore(pod *corev1.Pod, seen *cri.Pod) {
	if w.restored {
		return
	}
	w.restored = true
	prefix := w.m.cfg.IDPrefix
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range list {
			if c := seen.Container(s.Name); c != nil && c.State == cri.Running && s.ContainerID == prefix+c.ID {
				w.m.cfg.Probes.Restore(pod.UID, c.ID, s.Started != nil && *s.Started, s.Ready)
			}
		}
	}
}

func (w *worker) syncProbes(ctx context.Context, pod *corev1.Pod, seen *cri.Pod, terminating bool) {
	running := map[string]probes.Target{}
	for _, c := range seen.Containers {
		if _, starting := w.inFlight[podplan.Key{Kind: podplan.Start, Target: c.Name}]; c.State == cri.Running && !starting {
			running[c.Name] = probes.Target{ID: c.ID, StartedAt: c.StartedAt}
		}
	}
	ip := ""
	if ips := w.podIPs(pod, seen); len(ips) > 0 {
		ip = ips[0]
	}
	w.m.cfg.Probes.Sync(ctx, pod, ip, running, terminating)
}

func (w *worker) podIPs(pod *corev1.Pod, seen *cri.Pod) []string {
	if pod.Spec.HostNetwork {
		return w.m.cfg.HostIPs()
	}
	if s := seen.Sandbox(); s != nil {
		return s.IPs
	}
	return nil
}

// report hands the status on if it has changed, and asks for the API object's removal when the pod was deleted and is gone here.
func (w *worker) report(pod *corev1.Pod, o podplan.Observed, plan podplan.Plan, removed bool) {
	if removed {
		return
	}
	status := podstatus.For(podstatus.Input{
		Pod: pod, Observed: o, Plan: plan, Now: w.m.cfg.Clock.Now(), IDPrefix: w.m.cfg.IDPrefix,
		Devices: w.deviceHealth, Resize: w.resizeConditions(pod), PodResources: w.resources.applied, RecursiveReadOnly: w.m.cfg.RecursiveReadOnly(w.handler),
	})
	if w.last != nil && w.last.Phase == corev1.PodPending && status.Phase == corev1.PodRunning {
		metrics.PodStart.Observe(w.m.cfg.Clock.Since(w.began).Seconds())
	}
	target := w.m.cfg.Mirror(pod)
	if target == nil {
		w.last = &status
		return
	}
	if w.last == nil || !equality.Semantic.DeepEqual(*w.last, status) || target.UID != pod.UID {
		w.m.cfg.Status.Set(target, status)
	}
	w.last = &status
	if plan.Done && target.DeletionTimestamp != nil && target.UID == pod.UID {
		w.m.cfg.Status.Remove(target)
	}
}

func (w *worker) deviceHealth(pod *corev1.Pod, c *corev1.Container) (out []corev1.ResourceStatus) {
	if !features.Enabled("ResourceHealthStatus") {
		return nil
	}
	for _, d := range w.m.cfg.Devices {
		out = append(out, d.Health(pod, c)...)
	}
	return out
}

func (w *worker) tellBackOffs(pod *corev1.Pod, seen *cri.Pod, plan podplan.Plan) {
	for _, name := range plan.BackingOff {
		if inst := seen.Container(name); inst != nil && w.backedOff[name] != inst.ID {
			w.backedOff[name] = inst.ID
			w.event(pod, name, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s_%s(%s)", name, pod.Name, pod.Namespace, pod.UID)
		}
	}
}

func (w *worker) forget() {
	pod := w.pod
	w.m.cfg.Probes.Remove(pod.UID)
	w.m.cfg.Images.Forget(pod.UID)
	w.m.cfg.Status.Forget(pod.UID)
	w.m.drop(pod.UID)
}
