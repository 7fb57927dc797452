package profile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
)

type klogLogger = klog.Logger

// waitingPods are the pods that Permit plugins hold back.
type waitingPods struct {
	mu   sync.RWMutex
	pods map[types.UID]*waitingPod
}

func newWaitingPods() *waitingPods { return &waitingPods{pods: map[types.UID]*waitingPod{}} }

func (w *waitingPods) add(p *waitingPod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[p.pod.UID] = p
}

func (w *waitingPods) remove(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, uid)
}

func (w *waitingPods) get(uid types.UID) *waitingPod {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.pods[uid]
}

// waitingPod implements fwk.WaitingPod. Its channel gets one verdict.
type waitingPod struct {
	pod     *corev1.Pod
	verdict chan *fwk.Status

	mu      sync.Mutex
	pending map[string]*time.Timer
}

func newWaitingPod(pod *corev1.Pod, timeouts map[string]time.Duration) *waitingPod {
	w := &waitingPod{pod: pod, verdict: make(chan *fwk.Status, 1), pending: map[string]*time.Timer{}}
	w.mu.Lock()
	defer w.mu.Unlock()
	for plugin, timeout := range timeouts {
		w.pending[plugin] = time.AfterFunc(timeout, func() {
			w.Reject(plugin, fmt.Sprintf("rejected due to timeout after waiting %v at plugin %v", timeout, plugin))
		})
	}
	return w
}

// GetPod implements fwk.WaitingPod.
func (w *waitingPod) GetPod() *corev1.Pod { return w.pod }

// GetPendingPlugins implements fwk.WaitingPod.
func (w *waitingPod) GetPendingPlugins() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]string, 0, len(w.pending))
	for name := range w.pending {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Allow implements fwk.WaitingPod.
func (w *waitingPod) Allow(plugin string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if timer, ok := w.pending[plugin]; ok {
		timer.Stop()
		delete(w.pending, plugin)
	}
	if len(w.pending) == 0 {
		w.send(nil)
	}
}

// Reject implements fwk.WaitingPod.
func (w *waitingPod) Reject(plugin, msg string) bool {
	return w.end(fwk.NewStatus(fwk.Unschedulable, msg).WithPlugin(plugin))
}

// Preempt implements fwk.WaitingPod: the pod is not refused, it is tried again.
func (w *waitingPod) Preempt(plugin, msg string) bool {
	return w.end(fwk.NewStatus(fwk.Error, "preempted while waiting: "+msg).WithPlugin(plugin))
}

func (w *waitingPod) end(status *fwk.Status) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, timer := range w.pending {
		timer.Stop()
	}
	return w.send(status)
}

func (w *waitingPod) send(status *fwk.Status) bool {
	select {
	case w.verdict <- status:
		return true
	default:
		return false
	}
}

// preBinding are the pods whose binding has begun and can still be stopped.
type preBinding struct {
	mu   sync.Mutex
	pods map[types.UID]*preBindPod
}

func newPreBinding() *preBinding { return &preBinding{pods: map[types.UID]*preBindPod{}} }

// preBindPod implements fwk.PodInPreBind.
type preBindPod struct {
	mu       sync.Mutex
	cancel   context.CancelCauseFunc
	done     bool
	canceled bool
}

// CancelPod implements fwk.PodInPreBind.
func (p *preBindPod) CancelPod(reason string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return false
	}
	p.canceled = true
	p.cancel(errors.New(reason))
	return true
}

// MarkPrebound implements fwk.PodInPreBind.
func (p *preBindPod) MarkPrebound() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = !p.canceled
	return p.done
}

// IterateOverWaitingPods implements fwk.Handle.
func (p *Profile) IterateOverWaitingPods(callback func(fwk.WaitingPod)) {
	p.waiting.mu.RLock()
	defer p.waiting.mu.RUnlock()
	for _, w := range p.waiting.pods {
		callback(w)
	}
}

// GetWaitingPod implements fwk.Handle.
func (p *Profile) GetWaitingPod(uid types.UID) fwk.WaitingPod {
	if w := p.waiting.get(uid); w != nil {
		return w
	}
	return nil // not a nil pointer inside the interface
}

// RejectWaitingPod implements fwk.Handle.
func (p *Profile) RejectWaitingPod(uid types.UID) bool {
	w := p.waiting.get(uid)
	return w != nil && w.Reject("", "removed")
}

// AddPodInPreBind implements fwk.Handle.
func (p *Profile) AddPodInPreBind(uid types.UID, cancel context.CancelCauseFunc) {
	p.preBinding.mu.Lock()
	defer p.preBinding.mu.Unlock()
	p.preBinding.pods[uid] = &preBindPod{cancel: cancel}
}

// GetPodInPreBind implements fwk.Handle.
func (p *Profile) GetPodInPreBind(uid types.UID) fwk.PodInPreBind {
	p.preBinding.mu.Lock()
	defer p.preBinding.mu.Unlock()
	if pod, ok := p.preBinding.pods[uid]; ok {
		return pod
	}
	return nil
}

// RemovePodInPreBind implements fwk.Handle.
func (p *Profile) RemovePodInPreBind(uid types.UID) {
	p.preBinding.mu.Lock()
	defer p.preBinding.mu.Unlock()
	delete(p.preBinding.pods, uid)
}
