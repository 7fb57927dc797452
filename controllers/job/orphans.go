package job

import (
	"context"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// addOrphans wires the controller that lets go pods which carry our finalizer and have no Job any more: nobody will count them, and
// nobody else would let them go.
func (r *Reconciler) addOrphans(e *env.Env) error {
	suspect := func(pod *corev1.Pod, q env.Queue) {
		if hasFinalizer(pod) && (pod.DeletionTimestamp != nil || metav1.GetControllerOfNoCopy(pod) == nil) {
			env.Add(q, client.ObjectKeyFromObject(pod))
		}
	}
	return e.Controller("job-orphan-pod", 2, r.freeOrphan,
		env.On(&corev1.Pod{}, env.Changes[*corev1.Pod]{
			Created: suspect,
			Updated: func(_, after *corev1.Pod, q env.Queue) { suspect(after, q) },
		}),
		env.On(&batchv1.Job{}, env.Changes[*batchv1.Job]{Deleted: func(job *batchv1.Job, q env.Queue) {
			for _, pod := range r.Pods.Controlled(job.Namespace, job.UID) {
				env.Add(q, client.ObjectKeyFromObject(pod))
			}
		}}))
}

func (r *Reconciler) freeOrphan(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	pod, ok := r.Pods.Find(req.Namespace, req.Name)
	if !ok || !hasFinalizer(pod) {
		return ctrl.Result{}, nil
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref != nil {
		if ref.Kind != kind.Kind {
			return ctrl.Result{}, nil
		}
		if job, ok := r.Jobs.Find(pod.Namespace, ref.Name); ok && job.UID == ref.UID {
			return ctrl.Result{}, nil
		}
		job := &batchv1.Job{}
		err := r.Client.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: ref.Name}, job)
		if err == nil && job.UID == ref.UID {
			return ctrl.Result{}, nil
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return ctrl.Result{}, fmt.Errorf("get job: %w", err)
		}
	}
	return ctrl.Result{}, r.free(ctx, []*corev1.Pod{pod})
}
