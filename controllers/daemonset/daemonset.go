// Package daemonset keeps one pod of each DaemonSet on every node that the DaemonSet wants to be on.
package daemonset

import (
	"context"
	"fmt"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
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

const (
	// A pod that fails is replaced at once, and then more and more slowly.
	failedBackoff, failedBackoffMost = time.Second, 15 * time.Minute
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

// Reconciler keeps the pods of DaemonSets.
type Reconciler struct {
	Sets    lister.Of[*appsv1.DaemonSet]
	Pods    lister.Of[*corev1.Pod]
	Nodes   lister.Of[*corev1.Node]
	Control podcontrol.Control
	History revision.History
	Clock   clock.Clock

	failed *flowcontrol.Backoff
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	sets, err := env.Lister(e, &appsv1.DaemonSet{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	nodes, err := env.Lister(e, &corev1.Node{})
	if err != nil {
		return err
	}
	revisions, err := env.Lister(e, &appsv1.ControllerRevision{})
	if err != nil {
		return err
	}
	fresh := func() client.Object { return &appsv1.DaemonSet{} }
	r := &Reconciler{
		Sets: sets, Pods: pods, Nodes: nodes, Clock: e.Clock,
		Control: podcontrol.Control{Client: e.Client, Recorder: e.Recorder("daemonset-controller"), Pending: expectation.New(pods)},
		History: revision.History{Client: e.Client, Revisions: revisions, Owner: kind, Fresh: fresh},
		failed:  flowcontrol.NewBackOff(failedBackoff, failedBackoffMost),
	}
	all := func(_ *corev1.Node, q env.Queue) {
		for _, set := range sets.All() {
			env.Add(q, client.ObjectKeyFromObject(set))
		}
	}
	selector := func(s *appsv1.DaemonSet) *metav1.LabelSelector { return s.Spec.Selector }
	return e.Controller("daemonset", workers, r.Reconcile,
		env.For(&appsv1.DaemonSet{}),
		env.Claimed(&corev1.Pod{}, kind, func(pod *corev1.Pod) []types.NamespacedName {
			return env.Matching(sets.In(pod.Namespace), selector, pod.Labels)
		}),
		env.Claimed(&appsv1.ControllerRevision{}, kind, func(rev *appsv1.ControllerRevision) []types.NamespacedName {
			return env.Matching(sets.In(rev.Namespace), selector, rev.Labels)
		}),
		env.On(&corev1.Node{}, env.Changes[*corev1.Node]{
			Created: all, Deleted: all,
			Updated: func(before, after *corev1.Node, q env.Queue) {
				if !maps.Equal(before.Labels, after.Labels) || !equality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) {
					all(after, q)
				}
			},
		}))
}

// Reconcile brings one DaemonSet a step on.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cached, ok := r.Sets.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	set := cached.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() {
		r.Control.Recorder.Eventf(set, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return ctrl.Result{}, nil //nolint:nilerr // the event tells
	}
	if set.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	settled, err := r.Control.Settled(ctx, set, selector)
	if err != nil {
		return ctrl.Result{}, err
	}
	claimer := ownership.Claimer{Client: r.Control.Client, Owner: kind, Fresh: r.History.Fresh}
	candidates := append(r.Pods.Controlled(set.Namespace, set.UID), r.Pods.Orphans(set.Namespace)...)
	env.Looked(ctx, len(candidates))
	pods, err := ownership.Claim(ctx, claimer, set, ownership.Matches[*corev1.Pod](selector), candidates)
	if err != nil {
		return ctrl.Result{}, err
	}
	revisions, err := r.History.Owned(ctx, set, selector)
	if err != nil {
		return ctrl.Result{}, err
	}
	collisions := new(ptr.Deref(set.Status.CollisionCount, 0))
	current, revisions, err := r.History.Ensure(ctx, set, &set.Spec.Template, revisions, collisions)
	if err != nil {
		return ctrl.Result{}, err
	}
	now := r.Clock.Now()
	view := newView(set, pods, r.Nodes.All(), current.Labels[revision.HashLabel], now)
	result := ctrl.Result{}
	var manageErr error
	if settled {
		manageErr = r.act(ctx, view, &result)
	} else {
		result.RequeueAfter = expectation.Retry
	}
	if err := r.report(ctx, view, collisions); err != nil {
		return ctrl.Result{}, err
	}
	if manageErr != nil {
		return ctrl.Result{}, manageErr
	}
	if wait := podstate.AvailableIn(pods, set.Spec.MinReadySeconds, now); wait > 0 && (result.RequeueAfter == 0 || wait < result.RequeueAfter) {
		result.RequeueAfter = wait
	}
	return result, r.History.Truncate(ctx, revisions, liveHashes(revisions, pods, current), set.Spec.RevisionHistoryLimit)
}

// act places and removes pods, and then, when every node has what it should, moves an update on.
func (r *Reconciler) act(ctx context.Context, v *view, result *ctrl.Result) error {
	p := planPlacement(v)
	p.remove = r.backedOff(v, p.remove, result)
	for _, note := range p.notes {
		r.Control.Recorder.Event(v.set, note.kind, note.reason, note.message)
	}
	if err := r.apply(ctx, v, p.create, p.remove); err != nil {
		return err
	}
	if !r.Control.Pending.Satisfied(v.set.UID) {
		return nil // what was just written counts first
	}
	if v.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType {
		return nil
	}
	u := planUpdate(v)
	return r.apply(ctx, v, u.create, u.remove)
}

// backedOff holds back the removal of failed pods that fail again and again on their node.
func (r *Reconciler) backedOff(v *view, pods []*corev1.Pod, result *ctrl.Result) []*corev1.Pod {
	now := r.Clock.Now()
	return podstate.Select(pods, func(pod *corev1.Pod) bool {
		if pod.Status.Phase != corev1.PodFailed {
			return true
		}
		key := fmt.Sprintf("%s/%d/%s", v.set.UID, v.set.Status.ObservedGeneration, nodeOf(pod))
		if r.failed.IsInBackOffSinceUpdate(key, now) {
			result.RequeueAfter = r.failed.Get(key)
			return false
		}
		r.failed.Next(key, now)
		return true
	})
}

func (r *Reconciler) apply(ctx context.Context, v *view, nodes []string, remove []*corev1.Pod) error {
	nodes = nodes[:min(len(nodes), podcontrol.Burst)]
	template := podTemplate(v.set, v.hash)
	_, err := podcontrol.SlowStart(len(nodes), func(i int) error {
		pod := podcontrol.New(template, v.set, kind)
		pod.Spec.Affinity = pinTo(pod.Spec.Affinity, nodes[i])
		err := r.Control.Create(ctx, v.set, pod)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	remove = remove[:min(len(remove), podcontrol.Burst)]
	return podcontrol.Parallel(len(remove), func(i int) error { return r.Control.Delete(ctx, v.set, remove[i]) })
}

func (r *Reconciler) report(ctx context.Context, v *view, collisions *int32) error {
	status := statusOf(v)
	if *collisions > 0 {
		status.CollisionCount = collisions
	}
	status.Conditions = v.set.Status.Conditions
	if equality.Semantic.DeepEqual(v.set.Status, status) {
		return nil
	}
	changed := v.set.DeepCopy()
	changed.Status = status
	if err := r.Control.Client.Status().Update(ctx, changed); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}

func liveHashes(revisions []*appsv1.ControllerRevision, pods []*corev1.Pod, current *appsv1.ControllerRevision) map[string]bool {
	used := map[string]bool{}
	for _, pod := range pods {
		used[pod.Labels[revision.HashLabel]] = true
	}
	live := map[string]bool{current.Name: true}
	for _, rev := range revisions {
		if used[rev.Labels[revision.HashLabel]] {
			live[rev.Name] = true
		}
	}
	return live
}
