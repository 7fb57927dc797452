// Package statefulset keeps pods that have a name and storage of their own: for each ordinal at most one, in order unless the set
// says that order does not matter.
package statefulset

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/controllers/ownership"
	"keelson.dev/controllers/podcontrol"
	"keelson.dev/controllers/revision"
	"keelson.dev/internal/expectation"
	"keelson.dev/internal/lister"
	"keelson.dev/internal/podstate"
)

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// Reconciler keeps the pods of StatefulSets.
type Reconciler struct {
	Client   client.Client
	Sets     lister.Of[*appsv1.StatefulSet]
	Pods     lister.Of[*corev1.Pod]
	Claims   lister.Of[*corev1.PersistentVolumeClaim]
	History  revision.History
	Recorder record.EventRecorder
	Clock    clock.PassiveClock
	Control  podcontrol.Control // of what was done to pods
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	sets, err := env.Lister(e, &appsv1.StatefulSet{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	claims, err := env.Lister(e, &corev1.PersistentVolumeClaim{})
	if err != nil {
		return err
	}
	revisions, err := env.Lister(e, &appsv1.ControllerRevision{})
	if err != nil {
		return err
	}
	r := &Reconciler{
		Client: e.Client, Sets: sets, Pods: pods, Claims: claims, Clock: e.Clock, Recorder: e.Recorder("statefulset-controller"),
		History: revision.History{Client: e.Client, Revisions: revisions, Owner: kind, Fresh: func() client.Object { return &appsv1.StatefulSet{} }},
		Control: podcontrol.Control{Client: e.Client, Pending: expectation.New(pods)},
	}
	return e.Controller("statefulset", workers, r.Reconcile,
		env.For(&appsv1.StatefulSet{}),
		env.Claimed(&corev1.Pod{}, kind, func(pod *corev1.Pod) []types.NamespacedName {
			return env.Matching(sets.In(pod.Namespace), func(s *appsv1.StatefulSet) *metav1.LabelSelector { return s.Spec.Selector }, pod.Labels)
		}))
}

// Reconcile brings one StatefulSet a step on.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cached, ok := r.Sets.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	set := cached.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return ctrl.Result{}, nil //nolint:nilerr // validation does not let it through
	}
	if settled, err := r.Control.Settled(ctx, set, selector); err != nil || !settled {
		return ctrl.Result{RequeueAfter: expectation.Retry}, err
	}
	revisions, err := r.History.Owned(ctx, set, selector)
	if err != nil {
		return ctrl.Result{}, err
	}
	claimer := ownership.Claimer{Client: r.Client, Owner: kind, Fresh: r.History.Fresh}
	candidates := append(r.Pods.Controlled(set.Namespace, set.UID), r.Pods.Orphans(set.Namespace)...)
	env.Looked(ctx, len(candidates))
	matches := func(pod *corev1.Pod) bool {
		_, member := ordinalOf(set, pod)
		return member && ownership.Matches[*corev1.Pod](selector)(pod)
	}
	pods, err := ownership.Claim(ctx, claimer, set, matches, candidates)
	if err != nil {
		return ctrl.Result{}, err
	}
	collisions := new(ptr.Deref(set.Status.CollisionCount, 0))
	update, revisions, err := r.History.Ensure(ctx, set, &set.Spec.Template, revisions, collisions)
	if err != nil {
		return ctrl.Result{}, err
	}
	v, err := newView(set, pods, revisions, update, r.Clock.Now())
	if err != nil {
		return ctrl.Result{}, err
	}
	actErr := r.act(ctx, v)
	if err := r.report(ctx, v, collisions); err != nil {
		return ctrl.Result{}, errors.Join(actErr, err)
	}
	if actErr != nil {
		return ctrl.Result{}, actErr
	}
	if err := r.History.Truncate(ctx, revisions, v.liveRevisions(), set.Spec.RevisionHistoryLimit); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: podstate.AvailableIn(pods, set.Spec.MinReadySeconds, v.now)}, nil
}

// act carries out the plan: one step after another where order matters, otherwise all of a kind at once.
func (r *Reconciler) act(ctx context.Context, v *view) error {
	if v.set.DeletionTimestamp != nil {
		return nil
	}
	if err := r.keepPolicies(ctx, v); err != nil {
		return err
	}
	steps := planSteps(v)
	if v.ordered() {
		for _, s := range steps {
			if err := r.take(ctx, v, s); err != nil {
				return err
			}
		}
		return nil
	}
	_, err := podcontrol.SlowStart(min(len(steps), podcontrol.Burst), func(i int) error { return r.take(ctx, v, steps[i]) })
	return err
}

func (r *Reconciler) take(ctx context.Context, v *view, s step) error {
	switch s.verb {
	case create:
		return r.create(ctx, v, s.pod)
	case remove:
		return r.remove(ctx, v, s)
	case claims:
		return r.ensureClaims(ctx, v.set, s.pod)
	case repair:
		return r.repair(ctx, v, s.pod)
	}
	return nil
}

func (r *Reconciler) create(ctx context.Context, v *view, pod *corev1.Pod) error {
	if err := r.ensureClaims(ctx, v.set, pod); err != nil {
		r.tell(v.set, "create", pod, err)
		return err
	}
	err := r.Client.Create(ctx, pod)
	switch {
	case apierrors.IsAlreadyExists(err):
		return err // not ours, or not in the cache yet: its event or the back-off brings us back
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	}
	r.tell(v.set, "create", pod, err)
	if err != nil {
		r.Control.Pending.Failed(v.set.UID, err)
		return fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	r.Control.Pending.Wrote(v.set.UID, pod)
	v.created(pod)
	return nil
}

func (r *Reconciler) remove(ctx context.Context, v *view, s step) error {
	if s.note != "" {
		r.Recorder.Eventf(v.set, corev1.EventTypeWarning, s.note, "StatefulSet %s/%s is recreating %s Pod %s", v.set.Namespace, v.set.Name,
			map[string]string{"RecreatingFailedPod": "failed", "RecreatingTerminatedPod": "terminated"}[s.note], s.pod.Name)
	}
	err := r.Client.Delete(ctx, s.pod.DeepCopy(), client.Preconditions{UID: new(s.pod.UID)})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	r.tell(v.set, "delete", s.pod, err)
	if err != nil {
		if r.Control.Pending.Failed(v.set.UID, err) {
			r.Control.Pending.Deleted(v.set.UID, s.pod)
		}
		return fmt.Errorf("delete pod %s: %w", s.pod.Name, err)
	}
	r.Control.Pending.Deleted(v.set.UID, s.pod)
	v.removed(s.pod)
	return nil
}

// repair gives a pod back the name label and the volumes that make it a member of the set.
func (r *Reconciler) repair(ctx context.Context, v *view, pod *corev1.Pod) error {
	fixed := pod.DeepCopy()
	ordinal, _ := ordinalOf(v.set, pod)
	identify(v.set, fixed, ordinal)
	if err := r.ensureClaims(ctx, v.set, fixed); err != nil {
		return err
	}
	err := r.Client.Update(ctx, fixed)
	r.tell(v.set, "update", pod, err)
	if err != nil {
		return fmt.Errorf("update pod %s: %w", pod.Name, err)
	}
	return nil
}

// tell records an event in upstream's words.
func (r *Reconciler) tell(set *appsv1.StatefulSet, verb string, pod *corev1.Pod, err error) {
	word := map[string]string{"create": "Create", "delete": "Delete", "update": "Update"}[verb]
	if err == nil {
		r.Recorder.Eventf(set, corev1.EventTypeNormal, "Successful"+word, "%s Pod %s in StatefulSet %s successful", word, pod.Name, set.Name)
		return
	}
	r.Recorder.Eventf(set, corev1.EventTypeWarning, "Failed"+word, "%s Pod %s in StatefulSet %s failed error: %s", word, pod.Name, set.Name, err)
}

func (r *Reconciler) report(ctx context.Context, v *view, collisions *int32) error {
	status := v.status()
	status.CollisionCount = collisions
	if equality.Semantic.DeepEqual(v.set.Status, status) {
		return nil
	}
	changed := v.set.DeepCopy()
	changed.Status = status
	if err := r.Client.Status().Update(ctx, changed); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}
