// Package job runs pods to completion. A pod counts exactly once: a finalizer holds each finished pod until its result stands in the
// status, and the status remembers the pods whose finalizer is about to go.
package job

import (
	"context"
	"errors"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/controllers/ownership"
	"keelson.dev/controllers/podcontrol"
	"keelson.dev/internal/expectation"
	"keelson.dev/internal/lister"
	"keelson.dev/internal/podstate"
)

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

// Reconciler runs Jobs.
type Reconciler struct {
	Client   client.Client
	Jobs     lister.Of[*batchv1.Job]
	Pods     lister.Of[*corev1.Pod]
	Control  podcontrol.Control
	Recorder record.EventRecorder
	Clock    clock.PassiveClock
	own      *expectation.Tracker // of writes to Jobs themselves: counting on an old status would count twice
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	jobs, err := env.Lister(e, &batchv1.Job{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	recorder := e.Recorder("job-controller")
	r := &Reconciler{
		Client: e.Client, Jobs: jobs, Pods: pods, Recorder: recorder, Clock: e.Clock,
		Control: podcontrol.Control{Client: e.Client, Recorder: recorder, Pending: expectation.New(pods)},
		own:     expectation.New(jobs),
	}
	if err := r.addOrphans(e); err != nil {
		return err
	}
	return e.Controller("job", workers, r.Reconcile,
		env.For(&batchv1.Job{}),
		env.Claimed(&corev1.Pod{}, kind, func(pod *corev1.Pod) []types.NamespacedName {
			return env.Matching(jobs.In(pod.Namespace), func(j *batchv1.Job) *metav1.LabelSelector { return j.Spec.Selector }, pod.Labels)
		}))
}

// Reconcile brings one Job a step on.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cached, ok := r.Jobs.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	if by := cached.Spec.ManagedBy; by != nil && *by != batchv1.JobControllerName {
		return ctrl.Result{}, nil
	}
	if !r.own.Satisfied(cached.UID) {
		return ctrl.Result{RequeueAfter: expectation.Retry}, nil
	}
	job := cached.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("selector: %w", err)
	}
	settled, err := r.Control.Settled(ctx, job, selector)
	if err != nil {
		return ctrl.Result{}, err
	}
	pods, err := r.claim(ctx, job, selector)
	if err != nil {
		return ctrl.Result{}, err
	}
	if finished(job) {
		return ctrl.Result{}, r.free(ctx, pods)
	}
	v := newView(job, pods, r.Clock.Now())
	v.start()
	v.decide()
	v.suspend()
	result, err := r.act(ctx, v, settled)
	if err == nil && !settled {
		result.RequeueAfter = expectation.Retry
	}
	if accountErr := r.account(ctx, v); accountErr != nil || err != nil {
		return ctrl.Result{}, errors.Join(err, accountErr)
	}
	return result, nil
}

func (r *Reconciler) claim(ctx context.Context, job *batchv1.Job, selector labels.Selector) ([]*corev1.Pod, error) {
	claimer := ownership.Claimer{
		Client: r.Client, Owner: kind, Fresh: func() client.Object { return &batchv1.Job{} }, Finalizers: []string{batchv1.JobTrackingFinalizer},
	}
	candidates := append(r.Pods.Controlled(job.Namespace, job.UID), r.Pods.Orphans(job.Namespace)...)
	env.Looked(ctx, len(candidates))
	return ownership.Claim(ctx, claimer, job, ownership.Matches[*corev1.Pod](selector), candidates)
}

// act creates and deletes pods. It returns when to look again.
func (r *Reconciler) act(ctx context.Context, v *view, settled bool) (ctrl.Result, error) {
	if !settled || v.job.DeletionTimestamp != nil {
		return ctrl.Result{RequeueAfter: v.deadlineIn()}, nil
	}
	p := v.plan()
	wait := v.deadlineIn()
	if p.wait > 0 && (wait == 0 || p.wait < wait) {
		wait = p.wait
	}
	if err := r.removePods(ctx, v, p.remove); err != nil {
		return ctrl.Result{}, err
	}
	if len(p.create) == 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	created, err := podcontrol.SlowStart(len(p.create), func(i int) error {
		err := r.Control.Create(ctx, v.job, podFor(v, p.create[i]))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	})
	v.addActive(created)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("create pods: %w", err)
	}
	return ctrl.Result{RequeueAfter: wait}, nil
}

// removePods deletes pods. Only those of a Job that fails count as failed: of the others the finalizer goes first.
func (r *Reconciler) removePods(ctx context.Context, v *view, pods []*corev1.Pod) error {
	if v.target == nil || v.target.Type != batchv1.JobFailureTarget {
		if err := r.free(ctx, pods); err != nil {
			return err
		}
	}
	err := podcontrol.Parallel(len(pods), func(i int) error { return r.Control.Delete(ctx, v.job, pods[i]) })
	if err != nil {
		return fmt.Errorf("delete pods: %w", err)
	}
	v.deleted(pods)
	return nil
}

// account moves finished pods into the counters. First their uids are written to the status; then their finalizers go; the counters
// follow in the next write, for those whose finalizer is really gone. Whatever happens in between, no pod counts twice or never.
func (r *Reconciler) account(ctx context.Context, v *view) error {
	counted := v.settleCounted()
	batch := v.collectUncounted()
	flush := v.conclude(len(batch) > 0)
	if counted || len(batch) > 0 || flush || v.statusChanged() {
		if err := r.write(ctx, v); err != nil {
			return err
		}
	}
	if err := r.free(ctx, batch); err != nil {
		return err
	}
	if v.done {
		r.announceEnd(v)
		return r.free(ctx, v.pods)
	}
	return nil
}

func (r *Reconciler) write(ctx context.Context, v *view) error {
	cached, ok := r.Jobs.Find(v.job.Namespace, v.job.Name)
	if ok && cached.ResourceVersion == v.job.ResourceVersion && equality.Semantic.DeepEqual(cached.Status, v.job.Status) {
		return nil
	}
	if err := r.Client.Status().Update(ctx, v.job); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("update status: %w", err)
	}
	r.own.Wrote(v.job.UID, v.job)
	for _, e := range v.events {
		r.Recorder.Event(v.job, e.kind, e.reason, e.message)
	}
	v.events = nil
	return nil
}

func (r *Reconciler) announceEnd(v *view) {
	for _, c := range v.job.Status.Conditions {
		switch {
		case c.Status != corev1.ConditionTrue:
		case c.Type == batchv1.JobComplete:
			if n := completions(v.job); n >= 0 && int(v.job.Status.Succeeded) > n {
				r.Recorder.Event(v.job, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
			}
			r.Recorder.Event(v.job, corev1.EventTypeNormal, "Completed", "Job completed")
		case c.Type == batchv1.JobFailed:
			r.Recorder.Event(v.job, corev1.EventTypeWarning, c.Reason, c.Message)
		}
	}
}

// freeing is the patch that removes our finalizer.
var freeing = client.RawPatch(types.StrategicMergePatchType, []byte(`{"metadata":{"$deleteFromPrimitiveList/finalizers":["`+batchv1.JobTrackingFinalizer+`"]}}`))

// free removes our finalizer from those of the pods that have stopped or are to be let go.
func (r *Reconciler) free(ctx context.Context, pods []*corev1.Pod) error {
	held := podstate.Select(pods, hasFinalizer)
	if len(held) > podcontrol.Burst {
		held = held[:podcontrol.Burst]
	}
	err := podcontrol.Parallel(len(held), func(i int) error {
		return client.IgnoreNotFound(r.Client.Patch(ctx, held[i].DeepCopy(), freeing))
	})
	if err != nil {
		return fmt.Errorf("remove finalizers: %w", err)
	}
	return nil
}

// podFor returns a new pod of the Job; index is negative for Jobs without indexes.
func podFor(v *view, slot slot) *corev1.Pod {
	template := v.job.Spec.Template.DeepCopy()
	pod := podcontrol.New(template, v.job, kind)
	pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	if slot.index >= 0 {
		indexPod(v.job, pod, slot)
	}
	if pod.Spec.RestartPolicy == "" {
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	}
	return pod
}

func hasFinalizer(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

func finished(job *batchv1.Job) bool {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

func suspended(job *batchv1.Job) bool { return ptr.Deref(job.Spec.Suspend, false) }

func indexed(job *batchv1.Job) bool {
	return job.Spec.CompletionMode != nil && *job.Spec.CompletionMode == batchv1.IndexedCompletion
}
