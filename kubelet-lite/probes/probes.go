// Package probes asks containers how they are. Each probe of each running container has one goroutine with its own schedule; its
// first attempt is made at once, and only a change of the result is told.
package probes

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	criclient "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/podplan"
)

var errCommandTimedOut = criclient.ErrCommandTimedOut

// Config of a Manager.
type Config struct {
	Exec     Exec
	Recorder record.EventRecorder
	Clock    clock.Clock
	// Changed is called when a result has changed.
	Changed func(types.UID)
}

// Target is a running container instance.
type Target struct {
	ID        string
	StartedAt time.Time
}

type kind string

const (
	startup   kind = "Startup"
	liveness  kind = "Liveness"
	readiness kind = "Readiness"
)

type key struct {
	pod  types.UID
	id   string // container instance
	kind kind
}

// Manager is safe for concurrent use.
type Manager struct {
	cfg Config

	mu      sync.Mutex
	workers map[key]*worker
	results map[key]podplan.Result
	pods    map[types.UID]probed

	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// probed is what probes need to know of a pod.
type probed struct {
	types.NamespacedName

	ip string
}

// worker is one probe of one container instance.
type worker struct {
	m         *Manager
	key       key
	pod       *corev1.Pod
	container *corev1.Container
	probe     *corev1.Probe
	target    Target
	cancel    context.CancelFunc
	kick      chan struct{} // the startup probe has succeeded
}

// New returns a manager.
func New(cfg Config) *Manager {
	pod := []string{"probe_type", "container", "pod", "namespace"}
	return &Manager{
		cfg: cfg, workers: map[key]*worker{}, results: map[key]podplan.Result{}, pods: map[types.UID]probed{},
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total", Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		}, append(pod, "pod_uid", "result")),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "prober_probe_duration_seconds", Help: "Duration in seconds for a probe response."}, pod),
	}
}

// Metrics serves what is counted of the probes of pods that are there.
func (m *Manager) Metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.total, m.duration)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// Sync starts the probes of containers that run and stops those of instances that do not. A pod that is terminating keeps only its
// readiness probes. ctx bounds the probes' lives.
func (m *Manager) Sync(ctx context.Context, pod *corev1.Pod, podIP string, running map[string]Target, terminating bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pods[pod.UID] = probed{types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, podIP}
	want := map[key]bool{}
	each := func(c *corev1.Container) {
		target, ok := running[c.Name]
		if !ok {
			return
		}
		for kind, probe := range map[kind]*corev1.Probe{startup: c.StartupProbe, liveness: c.LivenessProbe, readiness: c.ReadinessProbe} {
			if probe == nil || terminating && kind != readiness {
				continue
			}
			k := key{pod.UID, target.ID, kind}
			want[k] = true
			if m.workers[k] == nil {
				m.start(ctx, k, pod, c, probe, target)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		if cri.IsSidecar(&pod.Spec.InitContainers[i]) {
			each(&pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		each(&pod.Spec.Containers[i])
	}
	for k, w := range m.workers {
		if k.pod == pod.UID && !want[k] {
			w.cancel()
			delete(m.workers, k)
			delete(m.results, k)
		}
	}
}

// Remove stops all probes of a pod.
func (m *Manager) Remove(pod types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, w := range m.workers {
		if k.pod == pod {
			w.cancel()
			delete(m.workers, k)
			delete(m.results, k)
		}
	}
	if p, ok := m.pods[pod]; ok {
		m.total.DeletePartialMatch(prometheus.Labels{"pod_uid": string(pod)})
		m.duration.DeletePartialMatch(prometheus.Labels{"pod": p.Name, "namespace": p.Namespace})
		delete(m.pods, pod)
	}
}

// Results are the latest ones of a container instance.
func (m *Manager) Results(pod types.UID, id string) podplan.Probes {
	m.mu.Lock()
	defer m.mu.Unlock()
	return podplan.Probes{
		Startup:   m.results[key{pod, id, startup}],
		Liveness:  m.results[key{pod, id, liveness}],
		Readiness: m.results[key{pod, id, readiness}],
	}
}

// Restore takes over what the API says about a container that was already running when the agent started, so that a ready pod does
// not leave its Services because of that.
func (m *Manager) Restore(pod types.UID, id string, started, ready bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if started {
		m.results[key{pod, id, startup}] = podplan.Success
	}
	if ready {
		m.results[key{pod, id, readiness}] = podplan.Success
	}
}

func (m *Manager) start(ctx context.Context, k key, pod *corev1.Pod, c *corev1.Container, probe *corev1.Probe, target Target) {
	if k.kind == startup && m.results[k] == podplan.Success {
		// Restored: it has passed before the agent restarted, and never runs again for this instance.
		m.workers[k] = &worker{cancel: func() {}}
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &worker{m: m, key: k, pod: pod, container: c, probe: probe, target: target, cancel: cancel, kick: make(chan struct{}, 1)}
	m.workers[k] = w
	go w.run(ctx)
}

func (w *worker) podIP() string {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	return w.m.pods[w.key.pod].ip
}

// run asks until the container is gone, the startup probe has succeeded, or a failure has sealed the container's fate.
func (w *worker) run(ctx context.Context) {
	clk := w.m.cfg.Clock
	period := time.Duration(max(w.probe.PeriodSeconds, 1)) * time.Second
	if !w.waitForStartup(ctx) {
		return
	}
	delay := time.Duration(w.probe.InitialDelaySeconds)*time.Second - clk.Since(w.target.StartedAt)
	if !w.sleep(ctx, delay) {
		return
	}
	var last, streak int
	for {
		began := clk.Now()
		v := w.m.attempt(ctx, w)
		if ctx.Err() != nil {
			return
		}
		w.count(v, clk.Since(began))
		if v.broken == nil {
			now := 1
			if !v.ok {
				now = -1
			}
			if now != last {
				last, streak = now, 0
			}
			streak++
			if w.judge(ctx, v, streak) {
				return
			}
		} else {
			w.event("ProbeError", "%s probe errored and resulted in unknown state: %v", w.key.kind, v.broken)
		}
		if !w.sleep(ctx, period) {
			return
		}
	}
}

// count notes an attempt; how long it took counts only if it was not a failure.
func (w *worker) count(v verdict, took time.Duration) {
	labels, result := []string{string(w.key.kind), w.container.Name, w.pod.Name, w.pod.Namespace}, "successful"
	switch {
	case v.broken != nil:
		result = "unknown"
	case !v.ok:
		result = "failed"
	}
	if result != "failed" {
		w.m.duration.WithLabelValues(labels...).Observe(took.Seconds())
	}
	w.m.total.WithLabelValues(append(labels, string(w.pod.UID), result)...).Inc()
}

// judge records a result that has been seen often enough, and reports whether the probe is over.
func (w *worker) judge(ctx context.Context, v verdict, streak int) (over bool) {
	if !v.ok {
		klog.FromContext(ctx).V(2).Info("Probe failed", "pod", klog.KObj(w.pod), "container", w.container.Name, "probe", w.key.kind, "output", v.output)
		w.event("Unhealthy", "%s probe failed: %s", w.key.kind, v.output)
		if streak < int(max(w.probe.FailureThreshold, 1)) {
			return false
		}
		w.m.set(w.key, podplan.Failure)
		return w.key.kind != readiness
	}
	if streak < int(max(w.probe.SuccessThreshold, 1)) {
		return false
	}
	w.m.set(w.key, podplan.Success)
	return w.key.kind == startup
}

func (w *worker) event(reason, format string, args ...any) {
	w.m.cfg.Recorder.Event(cri.ContainerReference(w.pod, w.container.Name), corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...))
}

func (w *worker) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := w.m.cfg.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// waitForStartup holds liveness and readiness probes back until the container has started.
func (w *worker) waitForStartup(ctx context.Context) bool {
	if w.key.kind == startup || w.container.StartupProbe == nil || w.m.Results(w.key.pod, w.key.id).Startup == podplan.Success {
		return true
	}
	select {
	case <-w.kick:
		return true
	case <-ctx.Done():
		return false
	}
}

func (m *Manager) set(k key, r podplan.Result) {
	m.mu.Lock()
	changed := m.results[k] != r && m.workers[k] != nil
	if changed {
		m.results[k] = r
	}
	if changed && k.kind == startup && r == podplan.Success {
		for other, w := range m.workers {
			if other.id == k.id && other.kind != startup {
				w.kick <- struct{}{} // has room: a startup probe succeeds once
			}
		}
	}
	m.mu.Unlock()
	if changed {
		m.cfg.Changed(k.pod)
	}
}
