// Package replicaset keeps the number of pods of each ReplicaSet, and of each ReplicationController, which is the same thing with
// an older selector.
package replicaset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/controllers/ownership"
	"keelson.dev/controllers/podcontrol"
	"keelson.dev/internal/expectation"
	"keelson.dev/internal/lister"
	"keelson.dev/internal/podstate"
)

var kind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

// Kind is what differs between the kinds that keep replicas.
type Kind struct {
	GVK schema.GroupVersionKind
	// Find reads the cached owner as a ReplicaSet.
	Find func(key types.NamespacedName) (*appsv1.ReplicaSet, bool)
	// Siblings are the owners whose pods count as related when it is decided which pod goes first.
	Siblings func(set *appsv1.ReplicaSet) []types.UID
	// Fresh is an empty object of the kind, and Event the object that events are about.
	Fresh func() client.Object
	// NoTerminating says that the kind's status cannot hold the number of terminating pods.
	NoTerminating bool
	// UpdateStatus writes the status of a changed copy.
	UpdateStatus func(ctx context.Context, set *appsv1.ReplicaSet) error
}

// Reconciler keeps the replicas of one kind.
type Reconciler struct {
	Kind    Kind
	Pods    lister.Of[*corev1.Pod]
	Control podcontrol.Control
	Clock   clock.PassiveClock
}

// Add wires the controller of ReplicaSets.
func Add(e *env.Env, workers int) error {
	sets, err := env.Lister(e, &appsv1.ReplicaSet{})
	if err != nil {
		return err
	}
	k := Kind{
		GVK:   kind,
		Find:  func(key types.NamespacedName) (*appsv1.ReplicaSet, bool) { return sets.Find(key.Namespace, key.Name) },
		Fresh: func() client.Object { return &appsv1.ReplicaSet{} },
		Siblings: func(set *appsv1.ReplicaSet) []types.UID {
			ref := metav1.GetControllerOfNoCopy(set)
			if ref == nil {
				return []types.UID{set.UID}
			}
			var uids []types.UID
			for _, sibling := range sets.Controlled(set.Namespace, ref.UID) {
				uids = append(uids, sibling.UID)
			}
			return uids
		},
		UpdateStatus: func(ctx context.Context, set *appsv1.ReplicaSet) error { return e.Client.Status().Update(ctx, set) },
	}
	return Wire(e, "replicaset", workers, k, env.For(&appsv1.ReplicaSet{}), func(pod *corev1.Pod) []types.NamespacedName {
		selector := func(s *appsv1.ReplicaSet) *metav1.LabelSelector { return s.Spec.Selector }
		return env.Matching(sets.In(pod.Namespace), selector, pod.Labels)
	})
}

// Wire starts the controller of a kind. adopters names the owners whose selector matches an orphan.
func Wire(e *env.Env, name string, workers int, k Kind, own env.Watch, adopters env.Keys[*corev1.Pod]) error {
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	r := NewReconciler(k, pods, podcontrol.Control{Client: e.Client, Recorder: e.Recorder(name + "-controller"), Pending: expectation.New(pods)}, e.Clock)
	return e.Controller(name, workers, r.Reconcile, own, env.Claimed(&corev1.Pod{}, k.GVK, adopters))
}

// NewReconciler returns the reconciler of a kind.
func NewReconciler(k Kind, pods lister.Of[*corev1.Pod], control podcontrol.Control, clk clock.PassiveClock) *Reconciler {
	return &Reconciler{Kind: k, Pods: pods, Control: control, Clock: clk}
}

// Reconcile brings one owner to its number of replicas and reports its status.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	set, ok := r.Kind.Find(req.NamespacedName)
	if !ok {
		return ctrl.Result{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() {
		return ctrl.Result{}, nil //nolint:nilerr // validation lets neither through
	}
	settled, err := r.Control.Settled(ctx, set, selector)
	if err != nil || !settled {
		return ctrl.Result{RequeueAfter: expectation.Retry}, err
	}
	candidates := append(r.Pods.Controlled(set.Namespace, set.UID), podstate.Select(r.Pods.Orphans(set.Namespace), podstate.Active)...)
	claimer := ownership.Claimer{Client: r.Control.Client, Owner: r.Kind.GVK, Fresh: r.Kind.Fresh}
	owned, err := ownership.Claim(ctx, claimer, set, ownership.Matches[*corev1.Pod](selector), candidates)
	if err != nil {
		return ctrl.Result{}, err
	}
	active := podstate.Select(owned, podstate.Active)
	var p plan
	if set.DeletionTimestamp == nil {
		p = planReplicas(set, active, func() []*corev1.Pod { return r.related(set) }, r.Clock.Now())
	}
	manageErr := r.apply(ctx, set, p)
	if p.create == 0 && len(p.remove) == 0 { // otherwise there may be more to do as soon as the cache shows this
		env.Looked(ctx, len(candidates))
	}
	now := r.Clock.Now()
	status := statusOf(set, active, podstate.Select(owned, podstate.Terminating), manageErr, now)
	if r.Kind.NoTerminating {
		status.TerminatingReplicas = nil
	}
	if err := r.report(ctx, set, status); err != nil {
		return ctrl.Result{}, err
	}
	if manageErr != nil {
		return ctrl.Result{}, manageErr
	}
	return ctrl.Result{RequeueAfter: podstate.AvailableIn(active, set.Spec.MinReadySeconds, now)}, nil
}

// related returns the active pods of all owners that share this one's controller.
func (r *Reconciler) related(set *appsv1.ReplicaSet) []*corev1.Pod {
	var pods []*corev1.Pod
	for _, uid := range r.Kind.Siblings(set) {
		pods = append(pods, podstate.Select(r.Pods.Controlled(set.Namespace, uid), podstate.Active)...)
	}
	return pods
}

func (r *Reconciler) apply(ctx context.Context, set *appsv1.ReplicaSet, p plan) error {
	if p.create > 0 {
		_, err := podcontrol.SlowStart(p.create, func(int) error {
			err := r.Control.Create(ctx, r.eventObject(set), podcontrol.New(&set.Spec.Template, set, r.Kind.GVK))
			if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return nil // the namespace takes the owner with it
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return podcontrol.Parallel(len(p.remove), func(i int) error { return r.Control.Delete(ctx, r.eventObject(set), p.remove[i]) })
}

// eventObject is the owner under its own kind: a ReplicationController is a ReplicaSet only in here.
func (r *Reconciler) eventObject(set *appsv1.ReplicaSet) client.Object {
	obj := r.Kind.Fresh()
	obj.SetNamespace(set.Namespace)
	obj.SetName(set.Name)
	obj.SetUID(set.UID)
	obj.SetResourceVersion(set.ResourceVersion)
	return obj
}

func (r *Reconciler) report(ctx context.Context, set *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	changed := set.DeepCopy()
	changed.Status = status
	if err := r.Kind.UpdateStatus(ctx, changed); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}
