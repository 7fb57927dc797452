package defaultpreemption

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
)

// parallelEvictions is how many victims are evicted at a time; each takes two requests.
const parallelEvictions = 16

func loggerFrom(ctx context.Context) klog.Logger { return klog.FromContext(ctx) }

// preempt evicts the victims in the background. The pod is tried again when the last of them has gone: as long as it is in
// preempting, PreEnqueue keeps it out of the queue.
func (p *Plugin) preempt(ctx context.Context, pod *corev1.Pod, c candidate) {
	cleared := p.dropNominated(ctx, pod, c.node)
	victims := slices.DeleteFunc(slices.Clone(c.victims), func(v *corev1.Pod) bool { return v.DeletionTimestamp != nil })
	if len(victims) == 0 {
		return // they are going already
	}
	p.setPreempting(pod.UID, nil)
	// The goroutines are bounded by the scheduling loop: a pod in preempting is not tried again.
	go func() {
		logger := klog.FromContext(ctx)
		last := victims[len(victims)-1]
		awake, err := p.evictAll(ctx, pod, cleared, victims, c.node)
		p.mu.Lock()
		delete(p.preempting, pod.UID)
		p.mu.Unlock()
		if err != nil {
			logger.Error(err, "Preemption failed", "pod", klog.KObj(pod), "node", c.node)
		}
		// The end of the last victim wakes the pod; if that was before, or there is none, nothing would.
		if current := p.current(last); err != nil || awake || current == nil {
			p.handle.Activate(logger, map[string]*corev1.Pod{pod.Namespace + "/" + pod.Name: pod})
		}
	}()
}

func (p *Plugin) setPreempting(pod types.UID, last *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.preempting[pod] = last
}

// current is a victim as the cache has it now; nil if it has gone.
func (p *Plugin) current(victim *corev1.Pod) *corev1.Pod {
	pod, err := p.pods.Pods(victim.Namespace).Get(victim.Name)
	if err != nil || pod.UID != victim.UID {
		return nil
	}
	return pod
}

// evictAll evicts the victims side by side, but for the last, whose end tells that all have gone. inMemory says that this one was not
// bound yet, and has no end that a watch would tell of.
func (p *Plugin) evictAll(ctx context.Context, pod *corev1.Pod, cleared, victims []*corev1.Pod, node string) (inMemory bool, err error) {
	for _, other := range cleared {
		if err := p.patchStatus(ctx, other, map[string]any{"nominatedNodeName": nil}); err != nil && !gone(err) {
			klog.FromContext(ctx).Error(err, "Clear nomination", "pod", klog.KObj(other))
		}
	}
	var work errgroup.Group
	work.SetLimit(parallelEvictions)
	final := len(victims) - 1
	for _, victim := range victims[:final] {
		work.Go(func() error { _, err := p.evict(ctx, pod, victim, node); return err })
	}
	if err := work.Wait(); err != nil {
		return false, err
	}
	p.setPreempting(pod.UID, victims[final])
	return p.evict(ctx, pod, victims[final], node)
}

func (p *Plugin) patchStatus(ctx context.Context, pod *corev1.Pod, status map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	_, err = p.handle.ClientSet().CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// once is a recorder that writes an event of which there is only one, without remembering it.
type once interface {
	Once(ctx context.Context, pod, related *corev1.Pod, reason, action, note string)
}

// evict makes one victim go. One that waits for permission or for its volumes is only sent back to the queue: inMemory.
func (p *Plugin) evict(ctx context.Context, preemptor, victim *corev1.Pod, node string) (inMemory bool, err error) {
	note := ""
	if w := p.handle.GetWaitingPod(victim.UID); w != nil {
		inMemory = w.Preempt(Name, "preempted")
	} else if b := p.handle.GetPodInPreBind(victim.UID); b != nil {
		inMemory = b.CancelPod("preempted by " + Name)
	}
	if inMemory {
		note = " (in kube-scheduler memory)."
	} else if deleted, err := p.delete(ctx, preemptor, victim); !deleted {
		return false, err
	}
	note = fmt.Sprintf("Preempted by pod %v on node %v%s", preemptor.UID, node, note)
	if r, ok := p.handle.EventRecorder().(once); ok {
		r.Once(ctx, victim, preemptor, "Preempted", "Preempting", note)
	} else {
		p.handle.EventRecorder().WithLogger(klog.FromContext(ctx)).Eventf(victim, preemptor, corev1.EventTypeNormal, "Preempted", "Preempting", "%s", note)
	}
	return inMemory, nil
}

// delete marks a victim and deletes it; deleted is false if it has gone already.
func (p *Plugin) delete(ctx context.Context, preemptor, victim *corev1.Pod) (deleted bool, err error) {
	err = p.patchStatus(ctx, victim, map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message:            fmt.Sprintf("%s: preempting to accommodate a higher priority pod", preemptor.Spec.SchedulerName),
		LastTransitionTime: metav1.Now(), ObservedGeneration: victim.Generation,
	}}})
	if err == nil {
		err = p.handle.ClientSet().CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &victim.UID}})
	}
	switch {
	case gone(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("evict victim: %w", err)
	}
	return true, nil
}

// gone says that the victim is not there any more, or is another one by now.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// dropNominated takes the node from pods of lower priority that were nominated for it: their room is not coming, so they should
// look elsewhere. It returns those whose status says otherwise still.
func (p *Plugin) dropNominated(ctx context.Context, pod *corev1.Pod, node string) (stale []*corev1.Pod) {
	logger := klog.FromContext(ctx)
	freed := map[string]*corev1.Pod{}
	for _, info := range p.handle.NominatedPodsForNode(node) {
		other := info.GetPod()
		if priority(other) >= priority(pod) {
			continue
		}
		cleared := other.DeepCopy()
		cleared.Status.NominatedNodeName = ""
		// The terms were parsed when the pod came in.
		newer, _ := nodeinfo.NewPodInfo(cleared)
		p.handle.AddNominatedPod(logger, newer, &fwk.NominatingInfo{NominatingMode: fwk.ModeOverride})
		freed[other.Namespace+"/"+other.Name] = other
		if other.Status.NominatedNodeName != "" {
			stale = append(stale, other)
		}
	}
	if len(freed) > 0 {
		p.handle.Activate(logger, freed)
	}
	return stale
}
