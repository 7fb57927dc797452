// Package ttlafterfinished deletes Jobs some time after they have finished, if they say so.
package ttlafterfinished

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	jobs, err := env.Lister(e, &batchv1.Job{})
	if err != nil {
		return err
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		job, ok := jobs.Find(req.Namespace, req.Name)
		if !ok {
			return ctrl.Result{}, nil
		}
		at, ok := expiry(job)
		if !ok {
			return ctrl.Result{}, nil
		}
		if wait := at.Sub(e.Clock.Now()); wait > 0 {
			return ctrl.Result{RequeueAfter: wait}, nil
		}
		// The TTL may have been raised since the cache saw the Job: the version makes sure that it was not.
		err := e.Client.Delete(ctx, job.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationForeground),
			client.Preconditions{UID: new(job.UID), ResourceVersion: new(job.ResourceVersion)})
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	return e.Controller("ttl-after-finished", workers, reconcile, env.For(&batchv1.Job{}))
}

// expiry returns when a finished Job may go; false if it may stay.
func expiry(job *batchv1.Job) (time.Time, bool) {
	if job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return time.Time{}, false
	}
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second), true
		}
	}
	return time.Time{}, false
}
