// Package shutdown ends a node's pods in order before the machine goes down (KEP-2000, KEP-2712): those of low priority first, each
// group with a time of its own, so that what others need, such as the network's or the storage's pods, goes last.
//
// With systemd, logind says when the machine is going down, and waits for us. Without it, SIGTERM to the agent means the same, if
// grace periods are configured; SIGINT and SIGKILL end the agent alone, and its pods run on.
package shutdown

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/admit"
	"keelson.dev/kubelet-lite/cgroups"
	"keelson.dev/kubelet-lite/metrics"
	"keelson.dev/kubelet-lite/podplan"
)

// What users see of pods that a shutdown has ended or kept away, and of the node.
const (
	reasonEnded     = "Terminated"
	messageEnded    = "Pod was terminated in response to imminent node shutdown."
	reasonRejected  = "NodeShutdown"
	messageRejected = "Pod was rejected as the node is shutting down."
	NodeMessage     = "node is shutting down"
)

// Period is how long the pods from a priority on, up to that of the next period, have to end.
type Period = kubeletconfig.ShutdownGracePeriodByPodPriority

// Periods are those that are configured, in order of priority; none if the agent does not care for shutdowns.
func Periods(k *kubeletconfig.KubeletConfiguration) []Period {
	periods := slices.Clone(k.ShutdownGracePeriodByPodPriority)
	all, critical := k.ShutdownGracePeriod.Duration, k.ShutdownGracePeriodCriticalPods.Duration
	if len(periods) == 0 && all > 0 && all >= critical {
		periods = []Period{
			{Priority: 0, ShutdownGracePeriodSeconds: int64((all - critical).Seconds())},
			{Priority: cgroups.CriticalPriority, ShutdownGracePeriodSeconds: int64(critical.Seconds())},
		}
	}
	slices.SortFunc(periods, func(a, b Period) int { return cmp.Compare(a.Priority, b.Priority) })
	return periods
}

// Config is what a manager works with.
type Config struct {
	Periods []Period
	Pods    func() []*corev1.Pod // that run on the node
	Stop    func(types.UID, podplan.Stop)
	Active  func(types.UID) bool // whether a pod is not gone yet; Wake tells of changes
	Changed func()               // whether the node is going down
	Clock   clock.Clock
}

// Manager is safe for concurrent use.
type Manager struct {
	cfg        Config
	wake       chan struct{}
	terminated chan os.Signal

	mu       sync.Mutex
	down     bool
	bySignal bool // there is no logind that tells
}

// New returns a manager.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, wake: make(chan struct{}, 1), terminated: make(chan os.Signal, 1)}
}

// Down reports whether the machine is going down.
func (m *Manager) Down() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.down
}

// Admit keeps pods away from a machine that is going down.
func (m *Manager) Admit() *admit.Rejection {
	if m.Down() {
		return &admit.Rejection{Reason: reasonRejected, Message: messageRejected}
	}
	return nil
}

// Wake tells that a pod may be gone.
func (m *Manager) Wake() {
	select {
	case m.wake <- struct{}{}:
	default: // it is awake already
	}
}

// Run ends the pods when logind says that the machine goes down, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	if len(m.cfg.Periods) == 0 {
		return nil
	}
	var need int64
	for _, p := range m.cfg.Periods {
		need += p.ShutdownGracePeriodSeconds
	}
	l, err := openLogind(ctx, time.Duration(need)*time.Second)
	if err != nil {
		klog.FromContext(ctx).Info("There is no logind: SIGTERM to the agent shuts the node down", "err", err)
		signal.Notify(m.terminated, unix.SIGTERM)
		m.mu.Lock()
		m.bySignal = true
		m.mu.Unlock()
		return nil
	}
	defer l.close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case down, open := <-l.signals:
			if !open {
				return errors.New("the connection to logind broke") // the agent starts again, and with it this
			}
			if err := m.follow(ctx, l, down); err != nil {
				return err
			}
		}
	}
}

// follow does what logind's PrepareForShutdown asks for: false means that a shutdown was called off.
func (m *Manager) follow(ctx context.Context, l *logind, down bool) error {
	if !down {
		m.setDown(false)
		return l.hold()
	}
	m.End(ctx)
	l.release()
	return nil
}

// signalDelay is how much later than others this package may be told of a signal.
const signalDelay = 100 * time.Millisecond

// Terminated reports, when the agent is told to end, whether the node is shut down by that.
func (m *Manager) Terminated() bool {
	m.mu.Lock()
	bySignal := m.bySignal
	m.mu.Unlock()
	if !bySignal {
		return false
	}
	select {
	case <-m.terminated:
		return true
	case <-m.cfg.Clock.After(signalDelay):
		return false
	}
}

func (m *Manager) setDown(down bool) {
	m.mu.Lock()
	m.down = down
	m.mu.Unlock()
	m.cfg.Changed()
}

// End ends all pods, group by group, and returns when they are gone or their time is over.
func (m *Manager) End(ctx context.Context) {
	m.setDown(true)
	metrics.ShutdownStart.Set(float64(m.cfg.Clock.Now().Unix()))
	defer func() { metrics.ShutdownEnd.Set(float64(m.cfg.Clock.Now().Unix())) }()
	for _, g := range groups(m.cfg.Periods, m.cfg.Pods()) {
		klog.FromContext(ctx).Info("Node shutdown ends pods", "priority", g.Priority, "pods", len(g.pods), "seconds", g.ShutdownGracePeriodSeconds)
		deadline := m.cfg.Clock.After(time.Duration(g.ShutdownGracePeriodSeconds) * time.Second)
		for _, pod := range g.pods {
			m.cfg.Stop(pod.UID, stop(pod, g.ShutdownGracePeriodSeconds))
		}
		for over := false; !over && slices.ContainsFunc(g.pods, func(pod *corev1.Pod) bool { return m.cfg.Active(pod.UID) }); {
			select {
			case <-m.wake:
			case <-deadline:
				over = true
			case <-ctx.Done():
				return
			}
		}
	}
}

// stop ends a pod within its own grace period, or that of its group if that is shorter.
func stop(pod *corev1.Pod, grace int64) podplan.Stop {
	return podplan.Stop{
		Reason: reasonEnded, Message: messageEnded, Grace: new(min(podplan.GracePeriod(pod, nil), grace)),
		Condition: podplan.Disrupted(messageEnded),
	}
}

// group is the pods that end together.
type group struct {
	Period

	pods []*corev1.Pod
}

// groups are the pods by periods, in the order in which they end, those without pods left out. A pod belongs to the highest priority
// that is not above its own, and to the lowest if all are.
func groups(periods []Period, pods []*corev1.Pod) []group {
	out := make([]group, len(periods))
	for i, p := range periods {
		out[i].Period = p
	}
	for _, pod := range pods {
		var priority int32
		if pod.Spec.Priority != nil {
			priority = *pod.Spec.Priority
		}
		at := 0
		for at+1 < len(out) && out[at+1].Priority <= priority {
			at++
		}
		out[at].pods = append(out[at].pods, pod)
	}
	return slices.DeleteFunc(out, func(g group) bool { return len(g.pods) == 0 })
}
