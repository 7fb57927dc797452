package disruption

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/internal/podstate"
)

// staleAfter is how long a pod may be marked as about to be disrupted without being deleted. Then whoever marked it gave up.
const staleAfter = 2 * time.Minute

// clearStale takes back the mark of one pod when its time has come.
func (r *Reconciler) clearStale(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	pod, ok := r.Pods.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	now := r.Clock.Now()
	at, ok := stale(pod)
	if !ok {
		return ctrl.Result{}, nil
	}
	if wait := at.Sub(now); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	changed := pod.DeepCopy()
	podstate.SetCondition(&changed.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, ObservedGeneration: pod.Generation,
	}, metav1.NewTime(now))
	return ctrl.Result{}, client.IgnoreNotFound(r.Client.Status().Patch(ctx, changed, client.StrategicMergeFrom(pod)))
}

// stale returns when the mark of a pod becomes stale; false if it has none that can. A kubelet's own mark never is: it may take the
// kubelet any time to end the pod.
func stale(pod *corev1.Pod) (time.Time, bool) {
	c := podstate.Condition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet || pod.DeletionTimestamp != nil || podstate.Terminal(pod) {
		return time.Time{}, false
	}
	return c.LastTransitionTime.Add(staleAfter), true
}
