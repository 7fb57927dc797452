package defaultpreemption

import (
	"context"
	"encoding/json"
	"fmt"

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

// preempt evicts the victims in the background and lets the pod be tried again afterwards.
func (p *Plugin) preempt(ctx context.Context, pod *corev1.Pod, c candidate) {
	p.mu.Lock()
	p.preempting[pod.UID] = true
	p.mu.Unlock()
	p.dropNominated(ctx, pod, c.node)
	// The goroutines are bounded by the scheduling loop: a pod in preempting is not tried again.
	go func() {
		logger := klog.FromContext(ctx)
		var work errgroup.Group
		work.SetLimit(parallelEvictions)
		for _, victim := range c.victims {
			work.Go(func() error { return p.evict(ctx, pod, victim, c.node) })
		}
		err := work.Wait()
		p.mu.Lock()
		delete(p.preempting, pod.UID)
		p.mu.Unlock()
		if err != nil {
			logger.Error(err, "Preemption failed", "pod", klog.KObj(pod), "node", c.node)
			p.handle.DeleteNominatedPodIfExists(pod)
		}
		p.handle.Activate(logger, map[string]*corev1.Pod{pod.Namespace + "/" + pod.Name: pod})
	}()
}

// evict makes one victim go. One that waits for permission or for its volumes is only sent back to the queue.
func (p *Plugin) evict(ctx context.Context, preemptor, victim *corev1.Pod, node string) error {
	if w := p.handle.GetWaitingPod(victim.UID); w != nil && w.Preempt(Name, "preempted") {
		return nil
	}
	if b := p.handle.GetPodInPreBind(victim.UID); b != nil && b.CancelPod("preempted by a pod of higher priority") {
		return nil
	}
	if victim.DeletionTimestamp != nil {
		return nil
	}
	pods := p.handle.ClientSet().CoreV1().Pods(victim.Namespace)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": victim.UID},
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message:            fmt.Sprintf("%s: preempting to accommodate a higher priority pod", preemptor.Spec.SchedulerName),
			LastTransitionTime: metav1.Now(), ObservedGeneration: victim.Generation,
		}}},
	})
	if err != nil {
		return fmt.Errorf("encode condition: %w", err)
	}
	if _, err := pods.Patch(ctx, victim.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); gone(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("mark victim: %w", err)
	}
	err = pods.Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &victim.UID}})
	if err != nil && !gone(err) {
		return fmt.Errorf("delete victim: %w", err)
	}
	p.handle.EventRecorder().WithLogger(klog.FromContext(ctx)).Eventf(victim, preemptor, corev1.EventTypeNormal, "Preempted", "Preempting",
		"Preempted by pod %v on node %v", preemptor.UID, node)
	return nil
}

// gone says that the victim is not there any more, or is another one by now.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// dropNominated takes the node from pods of lower priority that were nominated for it: their room is not coming, so they should
// look elsewhere.
func (p *Plugin) dropNominated(ctx context.Context, pod *corev1.Pod, node string) {
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
	}
	if len(freed) > 0 {
		p.handle.Activate(logger, freed)
	}
}
