package queue

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
)

// Pod is a pending pod and its history in the queue. It implements fwk.QueuedEntityInfo.
type Pod struct {
	*nodeinfo.PodInfo

	// Timestamp is when the pod last entered the queue.
	Timestamp time.Time
	// FirstAttempt is when the pod was first tried; zero before that.
	FirstAttempt time.Time
	// Attempts counts tries, Unschedulable those that ended with a refusal, Errors the unbroken run of those that ended with an
	// error.
	Attempts, Unschedulable, Errors int
	// Began is when the attempt under way began.
	Began time.Time
	// BackoffExpiry is when the pod may be tried again.
	BackoffExpiry time.Time
	// Rejectors are the plugins that refused the pod the last time; Pending those that want to be asked again without back-off.
	Rejectors, Pending sets.Set[string]
	// GatedBy is the PreEnqueue plugin that keeps the pod out of the queue.
	GatedBy string

	index   int      // position in its heap, kept by the heap
	indexed []string // the plugins under which Queue.rejectedBy holds it
}

var _ fwk.QueuedEntityInfo = &Pod{}

// Pod returns the pod.
func (p *Pod) Pod() *corev1.Pod { return p.GetPod() }

// Type implements fwk.QueuedEntityInfo.
func (p *Pod) Type() fwk.EntityKeyType { return fwk.PodKeyType }

// GetPriority implements fwk.QueuedEntityInfo.
func (p *Pod) GetPriority() int32 { return corev1helpers.PodPriority(p.GetPod()) }

// GetTimestamp implements fwk.QueuedEntityInfo.
func (p *Pod) GetTimestamp() time.Time { return p.Timestamp }

// GetAttempts implements fwk.QueuedEntityInfo.
func (p *Pod) GetAttempts() int { return p.Attempts }

// GetBackoffExpiration implements fwk.QueuedEntityInfo.
func (p *Pod) GetBackoffExpiration() time.Time { return p.BackoffExpiry }

// GetUnschedulableCount implements fwk.QueuedEntityInfo.
func (p *Pod) GetUnschedulableCount() int { return p.Unschedulable }

// GetConsecutiveErrorsCount implements fwk.QueuedEntityInfo.
func (p *Pod) GetConsecutiveErrorsCount() int { return p.Errors }

// GetInitialAttemptTimestamp implements fwk.QueuedEntityInfo.
func (p *Pod) GetInitialAttemptTimestamp() *time.Time {
	if p.FirstAttempt.IsZero() {
		return nil
	}
	return &p.FirstAttempt
}

// GetUnschedulablePlugins implements fwk.QueuedEntityInfo.
func (p *Pod) GetUnschedulablePlugins() sets.Set[string] { return p.Rejectors }

// GetPendingPlugins implements fwk.QueuedEntityInfo.
func (p *Pod) GetPendingPlugins() sets.Set[string] { return p.Pending }

// GetGatingPlugin implements fwk.QueuedEntityInfo.
func (p *Pod) GetGatingPlugin() string { return p.GatedBy }

// GetGatingPluginEvents implements fwk.QueuedEntityInfo. The queue looks them up in its hints instead.
func (p *Pod) GetGatingPluginEvents() []fwk.ClusterEvent { return nil }

// podHeap is a priority queue of pods that knows where each pod is. It implements heap.Interface.
type podHeap struct {
	pods []*Pod
	less func(a, b *Pod) bool
}

func (h *podHeap) Len() int           { return len(h.pods) }
func (h *podHeap) Less(i, j int) bool { return h.less(h.pods[i], h.pods[j]) }
func (h *podHeap) Swap(i, j int) {
	h.pods[i], h.pods[j] = h.pods[j], h.pods[i]
	h.pods[i].index, h.pods[j].index = i, j
}

func (h *podHeap) Push(x any) {
	p := x.(*Pod)
	p.index = len(h.pods)
	h.pods = append(h.pods, p)
}

func (h *podHeap) Pop() any {
	last := len(h.pods) - 1
	p := h.pods[last]
	h.pods[last] = nil
	h.pods = h.pods[:last]
	return p
}
