package agent

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/eviction"
	"keelson.dev/kubelet-lite/images"
	"keelson.dev/kubelet-lite/podplan"
	"keelson.dev/kubelet-lite/shutdown"
)

// makeReclaim builds what gives the node back what it runs short of.
func (a *agent) makeReclaim(context.Context) error {
	k := &a.cfg.Kubelet
	a.collector = images.NewCollector(images.CollectorConfig{
		Images: a.runtime.Images, Runtime: a.runtime.Runtime, Disk: a.imageDisk, High: int(*k.ImageGCHighThresholdPercent), Low: int(*k.ImageGCLowThresholdPercent),
		MinAge: k.ImageMinimumGCAge.Duration, Clock: a.clock,
	})
	thresholds, err := eviction.Parse(k.EvictionHard, k.EvictionSoft, k.EvictionSoftGracePeriod, k.EvictionMinimumReclaim)
	if err != nil {
		return err
	}
	a.eviction = eviction.New(eviction.Config{
		Thresholds: thresholds, Transition: k.EvictionPressureTransitionPeriod.Duration, MaxPodGrace: int64(k.EvictionMaxPodGracePeriod),
		Node: a.stats.Node, Summary: a.stats.Summary, Pods: func() []*corev1.Pod { return a.active("") }, Evict: a.evict,
		Reclaim: func(ctx context.Context, _ eviction.Signal) error { return a.collector.Free(ctx) },
		Changed: func() { a.node.Nudge() }, Clock: a.clock,
	})
	a.shutdown = shutdown.New(shutdown.Config{
		Periods: shutdown.Periods(k), Pods: func() []*corev1.Pod { return a.active("") }, Stop: a.workers.Stop, Active: a.present,
		Changed: func() { a.node.Nudge() }, Clock: a.clock,
	})
	return nil
}

// present reports whether something of a pod is left here, or the API does not know yet that it is over: after the machine's next start it
// would run again.
func (a *agent) present(uid types.UID) bool {
	if a.workers.Active(uid) {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	pod := a.api[uid]
	return pod != nil && !podplan.IsTerminal(pod.Status.Phase)
}

// trouble is what keeps the node from being ready, beside its runtime.
func (a *agent) trouble() string {
	if a.shutdown.Down() {
		return shutdown.NodeMessage
	}
	return ""
}

// imageDisk measures the disk that holds images.
func (a *agent) imageDisk(ctx context.Context) (capacity, available uint64, err error) {
	node, err := a.stats.Node(ctx)
	if err != nil || node.Runtime == nil || node.Runtime.ImageFs == nil {
		return 0, 0, err
	}
	if fs := node.Runtime.ImageFs; fs.CapacityBytes != nil && fs.AvailableBytes != nil {
		return *fs.CapacityBytes, *fs.AvailableBytes, nil
	}
	return 0, 0, nil
}

// evict ends a pod for the node's sake.
func (a *agent) evict(_ context.Context, pod *corev1.Pod, message string, grace *int64) error {
	if grace == nil {
		grace = new(int64)
	}
	a.recorder.Event(cri.ContainerReference(pod, ""), corev1.EventTypeWarning, "Evicted", message)
	a.workers.Stop(pod.UID, podplan.Stop{Reason: "Evicted", Message: message, Grace: grace, Condition: podplan.Disrupted(message)})
	return nil
}
