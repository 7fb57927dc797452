// Package podgc removes pods that nobody else will: those of nodes that are gone or out of service, those that were deleted before
// they had a node, and the oldest of too many finished ones.
package podgc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
	"keelson.dev/internal/podstate"
)

// quarantine is how long a node must be missing before its pods count as orphans: it may be about to register again.
const quarantine = 40 * time.Second

// sweep is the key under which the number of finished pods is looked at.
var sweep = types.NamespacedName{Name: "\x00sweep"}

type reconciler struct {
	client    client.Client
	pods      lister.Of[*corev1.Pod]
	nodes     lister.Of[*corev1.Node]
	clock     clock.PassiveClock
	threshold int
	missing   map[string]time.Time // node → since when; only the single worker touches it
}

// Add wires the controller. threshold is how many finished pods may stay; none are removed if it is not positive.
func Add(e *env.Env, threshold int) error {
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	nodes, err := env.Lister(e, &corev1.Node{})
	if err != nil {
		return err
	}
	r := &reconciler{client: e.Client, pods: pods, nodes: nodes, clock: e.Clock, threshold: threshold, missing: map[string]time.Time{}}
	self := func(pod *corev1.Pod, q env.Queue) {
		node, ok := nodes.Find("", pod.Spec.NodeName)
		if ok && !outOfService(node) || pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
			return // as are almost all; a change of the node wakes them
		}
		env.Add(q, client.ObjectKeyFromObject(pod))
	}
	ofNode := func(node *corev1.Node, q env.Queue) {
		for _, pod := range pods.Index(lister.ByNode, node.Name) {
			self(pod, q)
		}
	}
	return e.Controller("pod-garbage-collector", 1, r.reconcile,
		env.On(&corev1.Pod{}, env.Changes[*corev1.Pod]{
			Created: func(pod *corev1.Pod, q env.Queue) {
				self(pod, q)
				if podstate.Terminal(pod) { // also those that were there before us
					env.Add(q, sweep)
				}
			},
			Updated: func(before, after *corev1.Pod, q env.Queue) {
				if after.DeletionTimestamp != nil && before.DeletionTimestamp == nil || before.Spec.NodeName != after.Spec.NodeName {
					self(after, q)
				}
				if podstate.Terminal(after) && !podstate.Terminal(before) {
					env.Add(q, sweep)
				}
			},
		}),
		env.On(&corev1.Node{}, env.Changes[*corev1.Node]{
			Updated: func(before, after *corev1.Node, q env.Queue) {
				if outOfService(after) && !outOfService(before) || readiness(before) != readiness(after) {
					ofNode(after, q)
				}
			},
			Deleted: ofNode,
		}))
}

func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if req.NamespacedName == sweep {
		return ctrl.Result{}, r.sweepFinished(ctx)
	}
	pod, ok := r.pods.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	if pod.Spec.NodeName == "" {
		if pod.DeletionTimestamp != nil {
			return ctrl.Result{}, r.remove(ctx, pod, nil) // nobody would report that it has stopped
		}
		return ctrl.Result{}, nil
	}
	node, ok := r.nodes.Find("", pod.Spec.NodeName)
	if ok {
		delete(r.missing, pod.Spec.NodeName)
		if outOfService(node) && readiness(node) != corev1.ConditionTrue && pod.DeletionTimestamp != nil {
			return ctrl.Result{}, r.remove(ctx, pod, nil)
		}
		return ctrl.Result{}, nil
	}
	return r.orphan(ctx, pod)
}

func (r *reconciler) orphan(ctx context.Context, pod *corev1.Pod) (ctrl.Result, error) {
	now := r.clock.Now()
	since, known := r.missing[pod.Spec.NodeName]
	if !known {
		since = now
		r.missing[pod.Spec.NodeName] = now
	}
	if wait := since.Add(quarantine).Sub(now); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	var node corev1.Node
	if err := r.client.Get(ctx, types.NamespacedName{Name: pod.Spec.NodeName}, &node); !apierrors.IsNotFound(err) {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, r.remove(ctx, pod, &corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC",
		Message: "PodGC: node no longer exists",
	})
}

// sweepFinished removes the oldest finished pods beyond the threshold.
func (r *reconciler) sweepFinished(ctx context.Context) error {
	finished := podstate.Select(r.pods.All(), podstate.Terminal)
	surplus := len(finished) - r.threshold
	if r.threshold <= 0 || surplus <= 0 {
		return nil
	}
	slices.SortFunc(finished, func(a, b *corev1.Pod) int {
		if evictedA, evictedB := a.Status.Reason == "Evicted", b.Status.Reason == "Evicted"; evictedA != evictedB {
			if evictedA {
				return -1
			}
			return 1
		}
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, pod := range finished[:surplus] {
		if err := r.remove(ctx, pod, nil); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes the pod at once. A pod that has not stopped is marked failed first, with a condition that says why, so that its
// owner can count it.
func (r *reconciler) remove(ctx context.Context, pod *corev1.Pod, why *corev1.PodCondition) error {
	klog.FromContext(ctx).Info("Removing pod", "pod", klog.KObj(pod), "node", pod.Spec.NodeName)
	if !podstate.Terminal(pod) {
		changed := pod.DeepCopy()
		changed.Status.Phase = corev1.PodFailed
		if why != nil {
			podstate.SetCondition(&changed.Status, *why, metav1.NewTime(r.clock.Now()))
		}
		if err := r.client.Status().Patch(ctx, changed, client.StrategicMergeFrom(pod)); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	err := r.client.Delete(ctx, pod.DeepCopy(), client.GracePeriodSeconds(0), client.Preconditions{UID: new(pod.UID)})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove pod: %w", err)
	}
	return nil
}

func outOfService(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func readiness(node *corev1.Node) corev1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}
