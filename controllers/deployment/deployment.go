// Package deployment rolls out pod templates: each template of a Deployment becomes a ReplicaSet, and the replicas move from the
// old ones to the new one at the pace that the strategy allows.
package deployment

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/controllers/ownership"
	"keelson.dev/internal/expectation"
	"keelson.dev/internal/lister"
)

var (
	kind    = appsv1.SchemeGroupVersion.WithKind("Deployment")
	setKind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
)

// Reconciler rolls out Deployments.
type Reconciler struct {
	Client      client.Client
	Deployments lister.Of[*appsv1.Deployment]
	Sets        lister.Of[*appsv1.ReplicaSet]
	Pods        lister.Of[*corev1.Pod]
	Recorder    record.EventRecorder
	Clock       clock.PassiveClock
	pending     *expectation.Tracker // of writes to ReplicaSets: the sum of sizes must not be taken from an old look at one of them
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	deployments, err := env.Lister(e, &appsv1.Deployment{})
	if err != nil {
		return err
	}
	sets, err := env.Lister(e, &appsv1.ReplicaSet{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	r := &Reconciler{
		Client: e.Client, Deployments: deployments, Sets: sets, Pods: pods,
		Recorder: e.Recorder("deployment-controller"), Clock: e.Clock, pending: expectation.New(sets),
	}
	adopters := func(set *appsv1.ReplicaSet) []types.NamespacedName {
		selector := func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector }
		return env.Matching(deployments.In(set.Namespace), selector, set.Labels)
	}
	return e.Controller("deployment", workers, r.Reconcile,
		env.For(&appsv1.Deployment{}),
		env.Claimed(&appsv1.ReplicaSet{}, kind, adopters),
		env.On(&corev1.Pod{}, env.Changes[*corev1.Pod]{Deleted: r.podGone}))
}

// podGone wakes a Deployment with strategy Recreate, which waits for the last old pod.
func (r *Reconciler) podGone(pod *corev1.Pod, queue env.Queue) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != setKind.Kind {
		return
	}
	set, ok := r.Sets.Find(pod.Namespace, ref.Name)
	if !ok || set.UID != ref.UID {
		return
	}
	owner := metav1.GetControllerOfNoCopy(set)
	if owner == nil || owner.Kind != kind.Kind {
		return
	}
	if d, ok := r.Deployments.Find(pod.Namespace, owner.Name); ok && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		env.Add(queue, client.ObjectKeyFromObject(d))
	}
}

// rollout is one look at a Deployment: a copy that may be changed, and its ReplicaSets out of the cache.
type rollout struct {
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet // all, oldest first
	new  *appsv1.ReplicaSet   // of the current template; nil if there is none yet
	old  []*appsv1.ReplicaSet // the others
}

// replace puts a written ReplicaSet in the place of its cached version.
func (o *rollout) replace(set *appsv1.ReplicaSet) {
	for _, list := range [][]*appsv1.ReplicaSet{o.sets, o.old} {
		for i := range list {
			if list[i].UID == set.UID {
				list[i] = set
			}
		}
	}
	if o.new != nil && o.new.UID == set.UID {
		o.new = set
	}
}

// Reconcile moves one Deployment a step on.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cached, ok := r.Deployments.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	d := cached.DeepCopy()
	if equality.Semantic.DeepEqual(d.Spec.Selector, &metav1.LabelSelector{}) {
		r.Recorder.Eventf(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		if d.Status.ObservedGeneration < d.Generation {
			d.Status.ObservedGeneration = d.Generation
			return ctrl.Result{}, r.Client.Status().Update(ctx, d)
		}
		return ctrl.Result{}, nil
	}
	if settled, err := r.settled(ctx, d); err != nil || !settled {
		return ctrl.Result{RequeueAfter: expectation.Retry}, err
	}
	sets, err := r.claim(ctx, d)
	if err != nil {
		return ctrl.Result{}, err
	}
	o := newRollout(d, sets)
	if err := r.step(ctx, o); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: stuckIn(o.d, r.Clock.Now())}, nil
}

// settled reports whether the cache shows what was written to the ReplicaSets of a Deployment.
func (r *Reconciler) settled(ctx context.Context, d *appsv1.Deployment) (bool, error) {
	if r.pending.Unsure(d.UID) {
		sets := &appsv1.ReplicaSetList{}
		if err := r.Client.List(ctx, sets, client.InNamespace(d.Namespace)); err != nil {
			return false, fmt.Errorf("look up replica sets: %w", err)
		}
		var owned []metav1.Object
		for i := range sets.Items {
			if metav1.IsControlledBy(&sets.Items[i], d) {
				owned = append(owned, &sets.Items[i])
			}
		}
		r.pending.Found(d.UID, owned)
	}
	return r.pending.Satisfied(d.UID), nil
}

// wrote keeps in mind what the cache has to show of a written ReplicaSet.
func (r *Reconciler) wrote(d *appsv1.Deployment, set *appsv1.ReplicaSet, err error) error {
	if err != nil {
		r.pending.Failed(d.UID, err)
		return err
	}
	r.pending.Wrote(d.UID, set)
	return nil
}

func newRollout(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *rollout {
	sets = slices.Clone(sets)
	slices.SortFunc(sets, olderFirst)
	o := &rollout{d: d, sets: sets, new: findNew(d, sets)}
	for _, set := range sets {
		if o.new == nil || set.UID != o.new.UID {
			o.old = append(o.old, set)
		}
	}
	return o
}

func olderFirst(a, b *appsv1.ReplicaSet) int {
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func (r *Reconciler) step(ctx context.Context, o *rollout) error {
	if o.d.DeletionTimestamp != nil {
		return r.reportScale(ctx, o)
	}
	if err := r.reportPause(ctx, o.d); err != nil {
		return err
	}
	if o.d.Spec.Paused || scaledByUser(o) {
		return r.scaleOnly(ctx, o)
	}
	if o.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return r.recreate(ctx, o)
	}
	return r.roll(ctx, o)
}

func (r *Reconciler) claim(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector: %w", err)
	}
	claimer := ownership.Claimer{Client: r.Client, Owner: kind, Fresh: func() client.Object { return &appsv1.Deployment{} }}
	candidates := append(r.Sets.Controlled(d.Namespace, d.UID), r.Sets.Orphans(d.Namespace)...)
	return ownership.Claim(ctx, claimer, d, ownership.Matches[*appsv1.ReplicaSet](selector), candidates)
}

// roll moves replicas from the old ReplicaSets to the new one within maxSurge and maxUnavailable.
func (r *Reconciler) roll(ctx context.Context, o *rollout) error {
	if err := r.ensureNew(ctx, o); err != nil {
		return err
	}
	if want := newSetReplicas(o.d, o.sets, o.new); want != *o.new.Spec.Replicas {
		if err := r.scale(ctx, o, o.new, want); err != nil {
			return err
		}
		return r.reportRollout(ctx, o)
	}
	moved := false
	for _, target := range planOld(o.d, o.sets, o.old, o.new) {
		moved = true
		if err := r.scale(ctx, o, target.set, target.replicas); err != nil {
			return err
		}
	}
	if !moved && complete(o.d, &o.d.Status) {
		if err := r.cleanup(ctx, o); err != nil {
			return err
		}
	}
	return r.reportRollout(ctx, o)
}

// recreate stops all old pods before the first new one starts.
func (r *Reconciler) recreate(ctx context.Context, o *rollout) error {
	moved := false
	for _, set := range active(o.old) {
		moved = true
		if err := r.scale(ctx, o, set, 0); err != nil {
			return err
		}
	}
	if moved || r.oldPodsRun(o) {
		return r.reportRollout(ctx, o)
	}
	if err := r.ensureNew(ctx, o); err != nil {
		return err
	}
	if err := r.scale(ctx, o, o.new, *o.d.Spec.Replicas); err != nil {
		return err
	}
	if complete(o.d, &o.d.Status) {
		if err := r.cleanup(ctx, o); err != nil {
			return err
		}
	}
	return r.reportRollout(ctx, o)
}

func (r *Reconciler) oldPodsRun(o *rollout) bool {
	for _, set := range o.old {
		for _, pod := range r.Pods.Controlled(o.d.Namespace, set.UID) {
			if pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
				return true
			}
		}
	}
	return false
}

// scaleOnly follows a change of replicas without moving the rollout on; this is also all that happens while it is paused.
func (r *Reconciler) scaleOnly(ctx context.Context, o *rollout) error {
	if o.new != nil {
		if err := r.adjustNew(ctx, o); err != nil {
			return err
		}
	}
	for _, target := range planScale(o) {
		if err := r.scale(ctx, o, target.set, target.replicas); err != nil {
			return err
		}
	}
	if o.d.Spec.Paused {
		if err := r.cleanup(ctx, o); err != nil {
			return err
		}
	}
	return r.reportScale(ctx, o)
}

// scale writes the size of a ReplicaSet, and beside it the sizes of the Deployment that later tell a scaling by the user from a
// rollout in progress.
func (r *Reconciler) scale(ctx context.Context, o *rollout, set *appsv1.ReplicaSet, replicas int32) error {
	before := *set.Spec.Replicas
	next := set.DeepCopy()
	if changed := setSizeAnnotations(next, *o.d.Spec.Replicas, *o.d.Spec.Replicas+maxSurge(o.d)); before == replicas && !changed {
		return nil
	}
	next.Spec.Replicas = new(replicas)
	if err := r.wrote(o.d, next, r.Client.Update(ctx, next)); err != nil {
		return fmt.Errorf("scale %s: %w", set.Name, err)
	}
	if before != replicas {
		direction := "up"
		if replicas < before {
			direction = "down"
		}
		r.Recorder.Eventf(o.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, set.Name, before, replicas)
	}
	o.replace(next)
	return nil
}

// cleanup deletes the oldest ReplicaSets beyond the history limit.
func (r *Reconciler) cleanup(ctx context.Context, o *rollout) error {
	for _, set := range surplusHistory(o.d, o.old) {
		if err := r.Client.Delete(ctx, set, client.Preconditions{UID: new(set.UID)}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old replica set %s: %w", set.Name, err)
		}
	}
	return nil
}
