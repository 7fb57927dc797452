package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/metrics"
	"keelson.dev/scheduler/queue"
)

// maxNote is the longest note that the events API takes.
const maxNote = 1024

// fail puts the pod back into the queue and tells the user.
func (s *Scheduler) fail(ctx context.Context, p *queue.Pod, f *failure) {
	logger := klog.FromContext(ctx)
	pod := p.Pod()
	current, err := s.pods.Pods(pod.Namespace).Get(pod.Name)
	switch {
	case apierrors.IsNotFound(err), err == nil && (current.UID != pod.UID || current.Spec.NodeName != ""):
		s.queue.Done(pod.UID) // deleted, or bound by somebody else
		return
	case err != nil:
		logger.Error(err, "Read pod from cache", "pod", klog.KObj(pod))
	}
	if ctx.Err() != nil {
		s.queue.Done(pod.UID)
		return
	}
	reason := corev1.PodReasonUnschedulable
	if !f.status.IsRejected() {
		reason = corev1.PodReasonSchedulerError
		logger.Error(f.status.AsError(), "Scheduling failed, the pod is retried", "pod", klog.KObj(pod))
	} else {
		p.Rejectors, p.Pending = f.diagnosis.Rejectors, f.diagnosis.Pending
		logger.V(2).Info("Pod is unschedulable", "pod", klog.KObj(pod), "why", f.message)
	}
	if f.nominating.Mode() == fwk.ModeOverride {
		s.queue.Nominator.AddNominatedPod(logger, p.PodInfo, f.nominating)
	}
	result := metrics.Unschedulable
	if !f.status.IsRejected() {
		result = metrics.Failed
	}
	s.metrics.Tried(result, pod.Spec.SchedulerName, time.Since(p.Began))
	s.queue.AddUnschedulable(ctx, p)

	note := f.message
	if len(note) > maxNote {
		note = note[:maxNote-4] + " ..."
	}
	s.recorder.WithLogger(logger).Eventf(pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", note)
	if err == nil {
		pod = current // its status is newer
	}
	s.status.set(pod, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: f.message,
		ObservedGeneration: pod.Generation,
	}, f.nominating)
}

// statusWriter writes pod conditions in the background, so that an unschedulable pod does not hold up the next one. Of several
// writes for one pod only the newest is sent.
type statusWriter struct {
	client kubernetes.Interface
	queue  workqueue.TypedRateLimitingInterface[types.UID]

	mu      sync.Mutex
	pending map[types.UID]podStatus
}

type podStatus struct {
	pod        *corev1.Pod
	condition  corev1.PodCondition
	nominating *fwk.NominatingInfo
}

// statusWorkers is how many conditions are written at a time, maxStatusRetries how often one is tried.
const (
	statusWorkers    = 4
	maxStatusRetries = 5
)

func newStatusWriter(client kubernetes.Interface) *statusWriter {
	return &statusWriter{
		client:  client,
		queue:   workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.UID]()),
		pending: map[types.UID]podStatus{},
	}
}

func (w *statusWriter) set(pod *corev1.Pod, condition corev1.PodCondition, nominating *fwk.NominatingInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending[pod.UID] = podStatus{pod, condition, nominating}
	w.queue.Add(pod.UID)
}

func (w *statusWriter) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, w.queue.ShutDown)
	defer stop()
	var workers sync.WaitGroup
	for range statusWorkers {
		workers.Go(func() {
			for {
				uid, shutdown := w.queue.Get()
				if shutdown {
					return
				}
				w.write(ctx, uid)
				w.queue.Done(uid)
			}
		})
	}
	workers.Wait()
}

func (w *statusWriter) write(ctx context.Context, uid types.UID) {
	w.mu.Lock()
	status, ok := w.pending[uid]
	delete(w.pending, uid)
	w.mu.Unlock()
	if !ok {
		return
	}
	patch, changed := statusPatch(status)
	if !changed {
		return
	}
	pod := status.pod
	_, err := w.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err), errors.Is(err, context.Canceled):
		w.queue.Forget(uid)
		return
	}
	klog.FromContext(ctx).Error(err, "Write pod condition", "pod", klog.KObj(pod))
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, newer := w.pending[uid]; !newer && w.queue.NumRequeues(uid) < maxStatusRetries {
		w.pending[uid] = status
		w.queue.AddRateLimited(uid)
	}
}

// statusPatch returns the patch that sets a pod's condition and nomination, and whether it changes anything.
func statusPatch(s podStatus) ([]byte, bool) {
	c := s.condition
	c.LastTransitionTime = metav1.Now()
	changed := true
	for _, old := range s.pod.Status.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		changed = old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message || old.ObservedGeneration != c.ObservedGeneration
	}
	status := map[string]any{"conditions": []corev1.PodCondition{c}}
	if s.nominating.Mode() == fwk.ModeOverride && s.nominating.NominatedNodeName != s.pod.Status.NominatedNodeName {
		changed = true
		status["nominatedNodeName"] = nil
		if name := s.nominating.NominatedNodeName; name != "" {
			status["nominatedNodeName"] = name
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": s.pod.UID}, "status": status})
	return patch, changed && err == nil
}
