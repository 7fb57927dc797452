package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/metrics"
	"keelson.dev/scheduler/profile"
	"keelson.dev/scheduler/queue"
	"keelson.dev/scheduler/why"
)

// place counts the pod on its node, reserves what it needs there, and binds it in the background.
func (s *Scheduler) place(ctx context.Context, prof *profile.Profile, state *profile.State, p *queue.Pod, node string) {
	copied := *p.Pod() // what it points to is read only, as in every cache of a watch
	pod := &copied
	pod.Spec.NodeName = node
	if err := s.cache.Assume(p.WithPod(pod), node); err != nil {
		s.fail(ctx, p, &failure{status: fwk.AsStatus(err), diagnosis: profile.NewDiagnosis(), message: err.Error()})
		return
	}
	s.queue.Nominator.DeleteNominatedPodIfExists(pod)
	if status := s.timedStatus("Reserve", prof, func() *fwk.Status { return prof.RunReservePluginsReserve(ctx, state, pod, node) }); !status.IsSuccess() {
		s.unplace(ctx, prof, state, p, pod, node, status)
		return
	}
	permit := s.timedStatus("Permit", prof, func() *fwk.Status { return prof.RunPermit(ctx, state, pod, node) })
	if !permit.IsSuccess() && !permit.IsWait() {
		s.unplace(ctx, prof, state, p, pod, node, permit)
		return
	}
	s.bindings <- struct{}{}
	s.binders <- func() { s.complete(ctx, prof, state, p, pod, node) }
}

// startBinders starts as many goroutines that bind as requests may be under way: one for each pod would cost it a stack.
func (s *Scheduler) startBinders() (stop func()) {
	var workers sync.WaitGroup
	for range maxRequests {
		workers.Go(func() {
			for work := range s.binders {
				work()
			}
		})
	}
	return func() {
		close(s.binders)
		workers.Wait()
		s.inBinding.Wait()
	}
}

// complete binds a pod that has its node. What may take long, such as volumes, gets a goroutine of its own.
func (s *Scheduler) complete(ctx context.Context, prof *profile.Profile, state *profile.State, p *queue.Pod, pod *corev1.Pod, node string) {
	busy, status := prof.PreFlight(ctx, state, pod, node)
	finish := func() {
		defer func() { <-s.bindings }()
		if busy {
			s.announce(ctx, pod, node)
		}
		if status.IsSuccess() {
			status = s.bind(ctx, prof, state, pod, node)
		}
		if !status.IsSuccess() {
			s.unplace(ctx, prof, state, p, pod, node, status)
			return
		}
		s.queue.Done(pod.UID)
		s.metrics.Tried(metrics.Scheduled, prof.ProfileName(), time.Since(p.Began))
		s.metrics.Bound(p.Attempts, time.Since(p.FirstAttempt))
		s.why.Add(pod.UID, why.Decision{Time: time.Now(), Node: node, Message: "assigned to " + node})
		s.recorder.Once(ctx, pod, nil, "Scheduled", "Binding", fmt.Sprintf("Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node))
		prof.RunPostBind(ctx, state, pod, node)
	}
	if busy {
		s.inBinding.Go(finish)
		return
	}
	finish()
}

// bind waits for permission, prepares and binds.
func (s *Scheduler) bind(ctx context.Context, prof *profile.Profile, state *profile.State, pod *corev1.Pod, node string) *fwk.Status {
	if status := prof.WaitOnPermit(ctx, pod); !status.IsSuccess() {
		return status
	}
	bindCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	prof.AddPodInPreBind(pod.UID, cancel)
	defer prof.RemovePodInPreBind(pod.UID)
	if status := s.timedStatus("PreBind", prof, func() *fwk.Status { return prof.RunPreBind(bindCtx, state, pod, node) }); !status.IsSuccess() {
		return status
	}
	if !prof.GetPodInPreBind(pod.UID).MarkPrebound() {
		return fwk.AsStatus(context.Cause(bindCtx))
	}
	if handled, status := s.extenderBind(pod, node); handled {
		return status
	}
	return s.timedStatus("Bind", prof, func() *fwk.Status { return prof.RunBind(ctx, state, pod, node) })
}

// announce tells others, such as an autoscaler, where a pod will be whose binding may take long. The binding goes on without it.
func (s *Scheduler) announce(ctx context.Context, pod *corev1.Pod, node string) {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID}, "status": map[string]any{"nominatedNodeName": node},
	})
	if err == nil {
		_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "Write the node that the pod will be on", "pod", klog.KObj(pod), "node", node)
	}
}

// unplace takes back what place did, after a plugin refused or the binding failed.
func (s *Scheduler) unplace(ctx context.Context, prof *profile.Profile, state *profile.State, p *queue.Pod, pod *corev1.Pod, node string, status *fwk.Status) {
	prof.RunReservePluginsUnreserve(ctx, state, pod, node)
	s.cache.Forget(pod)
	// Others may take the room; the pod itself is still in flight and does not react to this.
	s.queue.Happened(ctx, fwk.ClusterEvent{Resource: fwk.AssignedPod, ActionType: fwk.Delete}, pod, nil)
	d := profile.NewDiagnosis()
	message := status.Message()
	if status.IsRejected() {
		d.Blame(status)
		d.NodeStatus[node] = status
		message = d.Explain(len(d.NodeStatus))
	}
	s.why.Add(pod.UID, why.Decision{Time: time.Now(), Message: message})
	s.fail(ctx, p, &failure{status: status, diagnosis: d, message: message, nominating: clearNomination()})
}
