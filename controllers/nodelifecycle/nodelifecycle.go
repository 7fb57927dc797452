// Package nodelifecycle watches the heartbeats of nodes. A node whose Lease is not renewed for the grace period is marked Unknown;
// the conditions of every node become taints, which keep pods away and, a few nodes at a time, make others leave.
package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
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
	"keelson.dev/internal/lister"
	"keelson.dev/internal/podstate"
)

// Reconciler keeps conditions and taints of nodes.
type Reconciler struct {
	Client   client.Client
	Nodes    lister.Of[*corev1.Node]
	Leases   lister.Of[*coordinationv1.Lease]
	Pods     lister.Of[*corev1.Pod]
	Recorder record.EventRecorder
	Clock    clock.PassiveClock
	Grace    time.Duration

	mu    sync.Mutex
	beats map[string]*heartbeat
	zones *zones
}

// heartbeat is what was last seen of a node, by our own clock: clocks of nodes are not trusted. It starts anew with the process,
// which gives every node a fresh grace period.
type heartbeat struct {
	seen    time.Time
	renewed string // the Lease's renewTime, or the Ready condition's heartbeat of a node without a Lease
	ready   corev1.ConditionStatus
}

// Add wires the controller.
func Add(e *env.Env, workers int, grace time.Duration) error {
	nodes, err := env.Lister(e, &corev1.Node{})
	if err != nil {
		return err
	}
	leases, err := env.Lister(e, &coordinationv1.Lease{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	r := &Reconciler{
		Client: e.Client, Nodes: nodes, Leases: leases, Pods: pods, Recorder: e.Recorder("node-controller"),
		Clock: e.Clock, Grace: grace, beats: map[string]*heartbeat{}, zones: newZones(),
	}
	return e.Controller("node-lifecycle", workers, r.Reconcile,
		env.For(&corev1.Node{}),
		env.Mapped(&coordinationv1.Lease{}, func(lease *coordinationv1.Lease) []types.NamespacedName {
			return []types.NamespacedName{{Name: lease.Name}}
		}))
}

// Reconcile looks at one node: has it been heard of, what do its conditions say, and which taints follow.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	node, ok := r.Nodes.Find("", req.Name)
	if !ok {
		r.forget(req.Name)
		return ctrl.Result{}, nil
	}
	now := r.Clock.Now()
	beat, readyBefore := r.observe(node, now)
	silent := now.Sub(beat)
	if silent >= r.Grace {
		if conditions, changed := unknown(node, metav1.NewTime(now)); changed {
			copied := node.DeepCopy()
			copied.Status.Conditions = conditions
			if err := r.Client.Status().Update(ctx, copied); err != nil {
				return ctrl.Result{}, client.IgnoreNotFound(err)
			}
			node = copied
		}
	}
	ready := readyStatus(node)
	lost := readyBefore == corev1.ConditionTrue && ready != corev1.ConditionTrue
	if lost {
		r.Recorder.Eventf(node, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	}
	r.remember(node.Name, ready)
	again, err := r.taint(ctx, node, ready, now)
	if err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	// A silent kubelet cannot report its pods; a node that only says that it is not ready is believed about them, once.
	if ready == corev1.ConditionUnknown || lost {
		if err := r.markPods(ctx, node, now); err != nil {
			return ctrl.Result{}, err
		}
	}
	if silent < r.Grace {
		again = earliest(again, r.Grace-silent)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

func earliest(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// observe returns when the node was last heard of, and the ready status that the last look ended with.
func (r *Reconciler) observe(node *corev1.Node, now time.Time) (time.Time, corev1.ConditionStatus) {
	renewed := ""
	if lease, ok := r.Leases.Find(corev1.NamespaceNodeLease, node.Name); ok && lease.Spec.RenewTime != nil {
		renewed = lease.Spec.RenewTime.String()
	} else if c := conditionOf(node, corev1.NodeReady); c != nil {
		renewed = c.LastHeartbeatTime.String()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	beat := r.beats[node.Name]
	if beat == nil {
		beat = &heartbeat{seen: now, renewed: renewed}
		r.beats[node.Name] = beat
		r.Recorder.Eventf(node, corev1.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %s in Controller", node.Name, node.Name)
	}
	if beat.renewed != renewed {
		beat.seen, beat.renewed = now, renewed
	}
	return beat.seen, beat.ready
}

func (r *Reconciler) remember(name string, ready corev1.ConditionStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if beat := r.beats[name]; beat != nil {
		beat.ready = ready
	}
}

func (r *Reconciler) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.beats[name] == nil {
		return
	}
	delete(r.beats, name)
	gone := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	r.Recorder.Eventf(gone, corev1.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %s from Controller", name, name)
}

// taint brings the taints in line with the conditions. It returns when to look again at a node that is not ready: its zone's rate may
// allow an eviction by then, or all other nodes may be lost.
func (r *Reconciler) taint(ctx context.Context, node *corev1.Node, ready corev1.ConditionStatus, now time.Time) (time.Duration, error) {
	leave, wait := asBefore, time.Duration(0)
	if ready != corev1.ConditionTrue && conditionOf(node, corev1.NodeReady) != nil {
		leave, wait = r.zones.allow(node, r.Nodes.All(), now)
	}
	taints := wantedTaints(node, leave, metav1.NewTime(now))
	if equality.Semantic.DeepEqual(taints, node.Spec.Taints) {
		return wait, nil
	}
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": node.ResourceVersion, "uid": node.UID},
		"spec":     map[string]any{"taints": taints},
	})
	if err != nil {
		return 0, fmt.Errorf("encode taints: %w", err)
	}
	return wait, r.Client.Patch(ctx, node.DeepCopy(), client.RawPatch(types.MergePatchType, body))
}

// markPods sets Ready to false for the pods of a node that is not ready, so that Services stop sending to them.
func (r *Reconciler) markPods(ctx context.Context, node *corev1.Node, now time.Time) error {
	for _, pod := range r.Pods.Index(lister.ByNode, node.Name) {
		if !podstate.Ready(pod) {
			continue
		}
		changed := pod.DeepCopy()
		podstate.SetCondition(&changed.Status, corev1.PodCondition{
			Type: corev1.PodReady, Status: corev1.ConditionFalse, ObservedGeneration: podstate.Condition(pod, corev1.PodReady).ObservedGeneration,
		}, metav1.NewTime(now))
		patch := client.StrategicMergeFrom(pod)
		if err := r.Client.Status().Patch(ctx, changed, patch); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pod %s not ready: %w", pod.Name, err)
		}
		r.Recorder.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return nil
}
