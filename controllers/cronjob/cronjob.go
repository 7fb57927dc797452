// Package cronjob creates Jobs on a schedule.
package cronjob

import (
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/expectation"
	"keelson.dev/internal/lister"
)

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// Reconciler runs CronJobs.
type Reconciler struct {
	Client   client.Client
	CronJobs lister.Of[*batchv1.CronJob]
	Jobs     lister.Of[*batchv1.Job]
	Recorder record.EventRecorder
	Clock    clock.PassiveClock
	own      *expectation.Tracker // of writes to CronJobs themselves: a Job that stands in the list of active ones would look unexpected
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	cronJobs, err := env.Lister(e, &batchv1.CronJob{})
	if err != nil {
		return err
	}
	jobs, err := env.Lister(e, &batchv1.Job{})
	if err != nil {
		return err
	}
	r := &Reconciler{
		Client: e.Client, CronJobs: cronJobs, Jobs: jobs, Recorder: e.Recorder("cronjob-controller"), Clock: e.Clock, own: expectation.New(cronJobs),
	}
	return e.Controller("cronjob", workers, r.Reconcile, env.For(&batchv1.CronJob{}), env.Owned(&batchv1.Job{}, kind))
}

// Reconcile follows the Jobs of one CronJob, starts the one that is due and says when the next one is.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cached, ok := r.CronJobs.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	if !r.own.Satisfied(cached.UID) {
		return ctrl.Result{RequeueAfter: expectation.Retry}, nil
	}
	cj := cached.DeepCopy()
	jobs := r.Jobs.Controlled(cj.Namespace, cj.UID)
	if err := r.follow(ctx, cj, jobs); err != nil {
		return ctrl.Result{}, err
	}
	if err := r.trimHistory(ctx, cj, jobs); err != nil {
		return ctrl.Result{}, err
	}
	wait, err := r.run(ctx, cj, jobs)
	if !equality.Semantic.DeepEqual(cached.Status, cj.Status) {
		updateErr := r.Client.Status().Update(ctx, cj)
		if updateErr == nil {
			r.own.Wrote(cj.UID, cj)
		} else if err == nil {
			err = client.IgnoreNotFound(updateErr)
		}
	}
	return ctrl.Result{RequeueAfter: wait}, err
}

// follow takes Jobs that are over out of the list of active ones.
func (r *Reconciler) follow(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) error {
	listed := func(job *batchv1.Job) int {
		return slices.IndexFunc(cj.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID })
	}
	present := map[string]bool{}
	for _, job := range jobs {
		present[string(job.UID)] = true
		over, done := finished(job)
		i := listed(job)
		switch {
		case i >= 0 && done:
			cj.Status.Active = slices.Delete(cj.Status.Active, i, i+1)
			r.Recorder.Eventf(cj, corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, over)
			if over == batchv1.JobComplete && job.Status.CompletionTime != nil && (cj.Status.LastSuccessfulTime == nil || cj.Status.LastSuccessfulTime.Before(job.Status.CompletionTime)) {
				cj.Status.LastSuccessfulTime = job.Status.CompletionTime
			}
		case i < 0 && !done:
			// Made by us before a crash, or adopted by a person: it counts as active.
			r.Recorder.Eventf(cj, corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
			if ref, err := reference.GetReference(r.Client.Scheme(), job); err == nil {
				cj.Status.Active = append(cj.Status.Active, *ref)
			}
		case over == batchv1.JobComplete && job.Status.CompletionTime != nil && (cj.Status.LastSuccessfulTime == nil || cj.Status.LastSuccessfulTime.Before(job.Status.CompletionTime)):
			cj.Status.LastSuccessfulTime = job.Status.CompletionTime
		}
	}
	var active []corev1.ObjectReference
	for _, ref := range cj.Status.Active {
		if present[string(ref.UID)] {
			active = append(active, ref)
			continue
		}
		job := &batchv1.Job{} // the cache may not show a Job that we have just made
		err := r.Client.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, job)
		switch {
		case err == nil && job.UID == ref.UID:
			active = append(active, ref)
		case err != nil && !apierrors.IsNotFound(err):
			return fmt.Errorf("get job: %w", err)
		default:
			r.Recorder.Eventf(cj, corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
		}
	}
	cj.Status.Active = active
	return nil
}

// run starts the Job of the latest time that was due, if the policies allow it, and returns how long to wait for the next one.
func (r *Reconciler) run(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) (time.Duration, error) {
	if cj.DeletionTimestamp != nil || ptr.Deref(cj.Spec.Suspend, false) {
		return 0, nil
	}
	now := r.Clock.Now()
	schedule, err := parse(cj)
	if err != nil {
		r.Recorder.Eventf(cj, corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", cj.Spec.Schedule, err)
		return 0, nil // only a change of the CronJob can help
	}
	due := latestDue(cj, schedule, now)
	next := due.next.Sub(now)
	if due.missed > tooManyMissed {
		r.Recorder.Eventf(cj, corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if due.at.IsZero() || cj.Status.LastScheduleTime != nil && !due.at.After(cj.Status.LastScheduleTime.Time) {
		return next, nil
	}
	if limit := cj.Spec.StartingDeadlineSeconds; limit != nil && due.at.Add(time.Duration(*limit)*time.Second).Before(now) {
		r.Recorder.Eventf(cj, corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", due.at.UTC().Format(time.RFC1123Z))
		return next, nil
	}
	if len(cj.Status.Active) > 0 {
		switch cj.Spec.ConcurrencyPolicy {
		case batchv1.ForbidConcurrent:
			r.Recorder.Eventf(cj, corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
			return next, nil
		case batchv1.ReplaceConcurrent:
			if err := r.replace(ctx, cj, jobs); err != nil {
				return 0, err
			}
		default: // side by side
		}
	}
	return next, r.create(ctx, cj, due.at)
}

func (r *Reconciler) replace(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) error {
	for _, job := range jobs {
		if slices.ContainsFunc(cj.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID }) {
			if err := r.delete(ctx, cj, job); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Reconciler) create(ctx context.Context, cj *batchv1.CronJob, at time.Time) error {
	job := newJob(cj, at)
	err := r.Client.Create(ctx, job)
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsAlreadyExists(err):
		existing := &batchv1.Job{}
		if err := r.Client.Get(ctx, client.ObjectKeyFromObject(job), existing); err != nil {
			return fmt.Errorf("get job: %w", err)
		}
		if !metav1.IsControlledBy(existing, cj) {
			r.Recorder.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: a job %s of another owner exists", job.Name)
			return nil
		}
		job = existing // made by us before a crash
	case err != nil:
		r.Recorder.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return fmt.Errorf("create job: %w", err)
	default:
		r.Recorder.Eventf(cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", job.Name)
	}
	if ref, err := reference.GetReference(r.Client.Scheme(), job); err == nil && !slices.ContainsFunc(cj.Status.Active, func(o corev1.ObjectReference) bool { return o.UID == ref.UID }) {
		if _, done := finished(job); !done {
			cj.Status.Active = append(cj.Status.Active, *ref)
		}
	}
	cj.Status.LastScheduleTime = new(metav1.NewTime(at))
	return nil
}

func (r *Reconciler) delete(ctx context.Context, cj *batchv1.CronJob, job *batchv1.Job) error {
	err := r.Client.Delete(ctx, job.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground), client.Preconditions{UID: new(job.UID)})
	if err != nil && !apierrors.IsNotFound(err) {
		r.Recorder.Eventf(cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return fmt.Errorf("delete job: %w", err)
	}
	cj.Status.Active = slices.DeleteFunc(cj.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID })
	r.Recorder.Eventf(cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", job.Name)
	return nil
}

// trimHistory deletes the oldest finished Jobs beyond the limits.
func (r *Reconciler) trimHistory(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) error {
	byEnd := map[batchv1.JobConditionType][]*batchv1.Job{}
	for _, job := range jobs {
		if over, done := finished(job); done {
			byEnd[over] = append(byEnd[over], job)
		}
	}
	for end, limit := range map[batchv1.JobConditionType]*int32{batchv1.JobComplete: cj.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: cj.Spec.FailedJobsHistoryLimit} {
		if limit == nil {
			continue
		}
		list := byEnd[end]
		slices.SortFunc(list, startedFirst)
		for _, job := range list[:max(0, len(list)-int(*limit))] {
			if err := r.delete(ctx, cj, job); err != nil {
				return err
			}
		}
	}
	return nil
}

func startedFirst(a, b *batchv1.Job) int {
	if a.Status.StartTime != nil && b.Status.StartTime != nil {
		if c := a.Status.StartTime.Compare(b.Status.StartTime.Time); c != 0 {
			return c
		}
	}
	return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
}

func finished(job *batchv1.Job) (batchv1.JobConditionType, bool) {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type, true
		}
	}
	return "", false
}
