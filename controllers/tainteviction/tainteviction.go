// Package tainteviction removes pods from nodes whose NoExecute taints they do not tolerate, or no longer.
package tainteviction

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
	"keelson.dev/internal/podstate"
)

// Reconciler evicts pods.
type Reconciler struct {
	Client   client.Client
	Nodes    lister.Of[*corev1.Node]
	Pods     lister.Of[*corev1.Pod]
	Recorder record.EventRecorder
	Clock    clock.PassiveClock
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	nodes, err := env.Lister(e, &corev1.Node{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	r := &Reconciler{Client: e.Client, Nodes: nodes, Pods: pods, Recorder: e.Recorder("taint-eviction-controller"), Clock: e.Clock}
	wake := func(node *corev1.Node, q env.Queue) {
		for _, pod := range pods.Index(lister.ByNode, node.Name) {
			env.Add(q, client.ObjectKeyFromObject(pod))
		}
	}
	placed := func(pod *corev1.Pod, q env.Queue) {
		node, ok := nodes.Find("", pod.Spec.NodeName)
		if pod.Spec.NodeName != "" && (!ok || len(noExecute(node)) > 0) { // a taint that comes later wakes it
			env.Add(q, client.ObjectKeyFromObject(pod))
		}
	}
	return e.Controller("taint-eviction-controller", workers, r.Reconcile,
		env.On(&corev1.Pod{}, env.Changes[*corev1.Pod]{
			Created: placed,
			Updated: func(before, after *corev1.Pod, q env.Queue) {
				if before.Spec.NodeName != after.Spec.NodeName || !equality.Semantic.DeepEqual(before.Spec.Tolerations, after.Spec.Tolerations) {
					placed(after, q)
				}
			},
		}),
		env.On(&corev1.Node{}, env.Changes[*corev1.Node]{
			Created: func(node *corev1.Node, q env.Queue) {
				if len(noExecute(node)) > 0 {
					wake(node, q)
				}
			},
			Updated: func(before, after *corev1.Node, q env.Queue) {
				if !equality.Semantic.DeepEqual(noExecute(before), noExecute(after)) {
					wake(after, q)
				}
			},
		}))
}

// Reconcile evicts one pod if its time has come.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	pod, ok := r.Pods.Find(req.Namespace, req.Name)
	if !ok || pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil || podstate.Terminal(pod) {
		return ctrl.Result{}, nil
	}
	node, ok := r.Nodes.Find("", pod.Spec.NodeName)
	if !ok {
		return ctrl.Result{}, nil
	}
	now := r.Clock.Now()
	at, evict := evictAt(pod, noExecute(node), now)
	if !evict {
		return ctrl.Result{}, nil
	}
	if wait := at.Sub(now); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	return ctrl.Result{}, r.evict(ctx, pod, now)
}

func (r *Reconciler) evict(ctx context.Context, pod *corev1.Pod, now time.Time) error {
	r.Recorder.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
	changed := pod.DeepCopy()
	if podstate.SetCondition(&changed.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation,
		Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
	}, metav1.NewTime(now)) {
		if err := r.Client.Status().Patch(ctx, changed, client.StrategicMergeFrom(pod)); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	err := r.Client.Delete(ctx, changed, client.Preconditions{UID: new(pod.UID)})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("evict: %w", err)
	}
	return nil
}

func noExecute(node *corev1.Node) []corev1.Taint {
	var taints []corev1.Taint
	for _, taint := range node.Spec.Taints {
		if taint.Effect == corev1.TaintEffectNoExecute {
			taints = append(taints, taint)
		}
	}
	return taints
}

// evictAt returns when a pod must leave because of taints; false if it may stay. The time that a toleration allows runs from when
// the taint was added or the pod came to the node, whichever is later, so that a restart of ours does not extend it.
func evictAt(pod *corev1.Pod, taints []corev1.Taint, now time.Time) (time.Time, bool) {
	var first time.Time
	evict := false
	for i := range taints {
		seconds, tolerated := tolerance(pod, &taints[i])
		if !tolerated {
			return now, true
		}
		if seconds == nil {
			continue
		}
		start := pod.CreationTimestamp.Time
		if added := taints[i].TimeAdded; added == nil {
			start = now
		} else if added.After(start) {
			start = added.Time
		}
		at := start.Add(time.Duration(max(*seconds, 0)) * time.Second)
		if !evict || at.Before(first) {
			first, evict = at, true
		}
	}
	return first, evict
}

// tolerance returns for how long the pod tolerates a taint; nil is for ever. Of several tolerations the shortest counts.
func tolerance(pod *corev1.Pod, taint *corev1.Taint) (*int64, bool) {
	var least *int64
	tolerated := false
	for i := range pod.Spec.Tolerations {
		toleration := &pod.Spec.Tolerations[i]
		if !toleration.ToleratesTaint(klog.Background(), taint, true) {
			continue
		}
		tolerated = true
		if s := toleration.TolerationSeconds; s != nil && (least == nil || *s < *least) {
			least = s
		}
	}
	return least, tolerated
}
