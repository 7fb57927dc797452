// Package eviction keeps a node alive when memory, disk, inodes or process ids run out: it tells by node conditions, frees what
// is nobody's, and ends the pod that is furthest over what it asked for. It also ends pods that outgrow their own storage limits.
//
// Manager only observes and acts. What is short (thresholds.go), whose turn it is (rank.go) and who is over a limit of its own
// (limits.go) are pure functions.
package eviction

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/admit"
	"keelson.dev/kubelet-lite/metrics"
	"keelson.dev/kubelet-lite/staticpods"
)

// Config is what a Manager works with. All functions are required but Reclaim.
type Config struct {
	Thresholds []Threshold
	// Transition is for how long a condition stays after its cause has gone (evictionPressureTransitionPeriod, default 5 min).
	Transition time.Duration
	// Interval is how often the node is looked at, default 10 s. The kernel tells nobody that a disk fills up.
	Interval time.Duration
	// MaxPodGrace bounds the grace period of pods that a soft threshold ends (evictionMaxPodGracePeriod), in seconds.
	MaxPodGrace int64
	// Node is the node's part of Summary; asking for the pods' part costs much more and is done only where it is needed.
	Node    func(context.Context) (*statsapi.NodeStats, error)
	Summary func(context.Context) (*statsapi.Summary, error)
	// Pods returns the active pods, that is those not yet in a final phase.
	Pods func() []*corev1.Pod
	// Evict ends a pod with phase Failed, reason Evicted, the message, and the condition DisruptionTarget; nil grace: at once.
	Evict func(ctx context.Context, pod *corev1.Pod, message string, grace *int64) error
	// Reclaim frees what a disk signal counts without hurting a pod: dead containers and unused images.
	Reclaim func(ctx context.Context, signal Signal) error
	// Changed is called when Conditions would answer differently.
	Changed func()
	Clock   clock.WithTicker
}

// Manager watches over one node.
type Manager struct {
	cfg Config

	mu       sync.Mutex
	since    map[int]time.Time                      // threshold index → when it was first met without a break
	pressure map[corev1.NodeConditionType]time.Time // when each condition's cause was last seen
	active   map[corev1.NodeConditionType]bool
}

// New returns a manager that knows of no pressure.
func New(cfg Config) *Manager {
	if cfg.Transition == 0 {
		cfg.Transition = 5 * time.Minute
	}
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	return &Manager{cfg: cfg, since: map[int]time.Time{}, pressure: map[corev1.NodeConditionType]time.Time{}, active: map[corev1.NodeConditionType]bool{}}
}

// Run looks after the node until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	ticker := m.cfg.Clock.NewTicker(m.cfg.Interval)
	defer ticker.Stop()
	for {
		if err := m.Check(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "The node's resources could not be checked")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
	}
}

// Pressure reports whether a condition (MemoryPressure, DiskPressure, PIDPressure) holds. Admission refuses pods by it.
func (m *Manager) Pressure(condition corev1.NodeConditionType) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.active[condition]
}

// Check looks once and ends at most one pod for the node's sake: its resources count only once they are back.
func (m *Manager) Check(ctx context.Context) error {
	node, err := m.cfg.Node(ctx)
	if err != nil {
		return fmt.Errorf("node statistics: %w", err)
	}
	pods := m.cfg.Pods()
	if slices.ContainsFunc(pods, limited) {
		if err := m.endOversized(ctx, pods); err != nil {
			return err
		}
	}
	due := m.update(Observe(node), m.cfg.Clock.Now())
	if len(due) == 0 {
		return nil
	}
	worst := due[0]
	if m.cfg.Reclaim != nil && worst.Signal.disk() {
		if err := m.cfg.Reclaim(ctx, worst.Signal); err != nil {
			klog.FromContext(ctx).Error(err, "Node resources could not be reclaimed", "signal", worst.Signal)
		}
	}
	summary, err := m.cfg.Summary(ctx)
	if err != nil {
		return fmt.Errorf("summary: %w", err)
	}
	if !worst.met(Observe(&summary.Node)[worst.Signal], true) {
		return nil // what was reclaimed was enough
	}
	return m.endOne(ctx, worst, summary, pods)
}

// update records what is met, and returns the thresholds whose grace period is over, the most urgent first.
func (m *Manager) update(seen map[Signal]Observation, now time.Time) []Threshold {
	m.mu.Lock()
	var due []Threshold
	for i, t := range m.cfg.Thresholds {
		_, before := m.since[i]
		observation, known := seen[t.Signal]
		if !known || !t.met(observation, before) {
			delete(m.since, i)
			continue
		}
		if !before {
			m.since[i] = now
		}
		m.pressure[t.Signal.condition()] = now
		if now.Sub(m.since[i]) >= t.Grace {
			due = append(due, t)
		}
	}
	changed := false
	for _, condition := range conditions {
		last, ever := m.pressure[condition]
		active := ever && now.Sub(last) < m.cfg.Transition
		changed = changed || active != m.active[condition]
		m.active[condition] = active
	}
	m.mu.Unlock()
	if changed {
		m.cfg.Changed()
	}
	slices.SortStableFunc(due, func(a, b Threshold) int { return a.Signal.urgency() - b.Signal.urgency() })
	return due
}

func (m *Manager) endOversized(ctx context.Context, pods []*corev1.Pod) error {
	summary, err := m.cfg.Summary(ctx)
	if err != nil {
		return fmt.Errorf("summary: %w", err)
	}
	use := usageByUID(summary)
	for _, pod := range pods {
		message := OverLimit(pod, use[string(pod.UID)])
		if message == "" || critical(pod) {
			continue
		}
		if err := m.cfg.Evict(ctx, pod, message, nil); err != nil {
			return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	return nil
}

func (m *Manager) endOne(ctx context.Context, t Threshold, summary *statsapi.Summary, pods []*corev1.Pod) error {
	use := usageByUID(summary)
	candidates := slices.DeleteFunc(slices.Clone(pods), critical)
	Rank(t.Signal, candidates, use)
	if len(candidates) == 0 {
		klog.FromContext(ctx).Info("The node is short of a resource and has no pod to end", "signal", t.Signal)
		return nil
	}
	pod := candidates[0]
	var grace *int64
	if t.Grace > 0 { // a soft threshold
		seconds := m.cfg.MaxPodGrace
		if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
			seconds = min(seconds, *own)
		}
		grace = &seconds
	}
	metrics.Evictions.WithLabelValues(string(t.Signal)).Inc()
	if err := m.cfg.Evict(ctx, pod, Message(t, Observe(&summary.Node)[t.Signal], pod, use[string(pod.UID)]), grace); err != nil {
		return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

func usageByUID(summary *statsapi.Summary) map[string]*statsapi.PodStats {
	out := make(map[string]*statsapi.PodStats, len(summary.Pods))
	for i := range summary.Pods {
		out[summary.Pods[i].PodRef.UID] = &summary.Pods[i]
	}
	return out
}

// critical pods are never ended: the node's own static pods, and those that the cluster cannot do without.
func critical(pod *corev1.Pod) bool {
	return admit.Critical(pod, staticpods.IsStatic(pod) || staticpods.IsMirror(pod))
}
