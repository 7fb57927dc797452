// Package nodettl tells every node, by annotation, for how long it may keep Secrets and ConfigMaps without asking again: the larger the
// cluster, the longer.
package nodettl

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// step is a size of clusters. The sizes overlap, so that a cluster at a border does not change its mind with every node.
type step struct {
	least, most int // nodes
	ttl         int // seconds
}

var steps = []step{{0, 100, 0}, {90, 500, 15}, {450, 1000, 30}, {900, 2000, 60}, {1800, int(^uint(0) >> 1), 300}}

// next returns the step of a cluster of that many nodes which was at another step before.
func next(at, nodes int) int {
	for nodes > steps[at].most {
		at++
	}
	for nodes < steps[at].least {
		at--
	}
	return at
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	nodes, err := env.Lister(e, &corev1.Node{})
	if err != nil {
		return err
	}
	var at atomic.Int32
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		node, ok := nodes.Find("", req.Name)
		want := strconv.Itoa(steps[at.Load()].ttl)
		if !ok || node.Annotations[corev1.ObjectTTLAnnotationKey] == want {
			return ctrl.Result{}, nil
		}
		body := fmt.Sprintf(`{"metadata":{"uid":%q,"annotations":{%q:%q}}}`, node.UID, corev1.ObjectTTLAnnotationKey, want)
		return ctrl.Result{}, client.IgnoreNotFound(e.Client.Patch(ctx, node.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(body))))
	}
	count := func(node *corev1.Node, q env.Queue) {
		all := nodes.All()
		before := at.Load()
		after := int32(next(int(before), len(all)))
		env.Add(q, types.NamespacedName{Name: node.Name})
		if after == before || !at.CompareAndSwap(before, after) {
			return
		}
		for _, other := range all {
			env.Add(q, types.NamespacedName{Name: other.Name})
		}
	}
	return e.Controller("node-ttl", workers, reconcile, env.On(&corev1.Node{}, env.Changes[*corev1.Node]{
		Created: count, Deleted: count,
		Updated: func(before, after *corev1.Node, q env.Queue) {
			if before.Annotations[corev1.ObjectTTLAnnotationKey] != after.Annotations[corev1.ObjectTTLAnnotationKey] {
				env.Add(q, types.NamespacedName{Name: after.Name})
			}
		},
	}))
}
