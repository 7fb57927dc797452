// Package endpointslice lists the pods behind each Service in EndpointSlices. What goes into which slice is decided by
// k8s.io/endpointslice; this package tells it when.
package endpointslice

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	"k8s.io/endpointslice/util"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
	"keelson.dev/internal/podstate"
)

const (
	// controllerName stands in the label endpointslice.kubernetes.io/managed-by.
	controllerName = "endpointslice-controller.k8s.io"
	maxEndpoints   = 100
	// staleRetry bounds the wait for our own slices to appear in the cache; their events wake us earlier.
	staleRetry = 200 * time.Millisecond
)

// Reconciler keeps the slices of Services with a selector.
type Reconciler struct {
	Services lister.Of[*corev1.Service]
	Pods     lister.Of[*corev1.Pod]
	Nodes    lister.Of[*corev1.Node]
	Slices   lister.Of[*discoveryv1.EndpointSlice]
	Recorder record.EventRecorder

	lib      *endpointslice.Reconciler
	tracker  *util.EndpointSliceTracker
	triggers *util.TriggerTimeTracker
	topology *topologycache.TopologyCache
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	services, err := env.Lister(e, &corev1.Service{})
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
	slices, err := env.Lister(e, &discoveryv1.EndpointSlice{})
	if err != nil {
		return err
	}
	r := &Reconciler{
		Services: services, Pods: pods, Nodes: nodes, Slices: slices, Recorder: e.Recorder("endpoint-slice-controller"),
		tracker: util.NewEndpointSliceTracker(), triggers: util.NewTriggerTimeTracker(), topology: topologycache.NewTopologyCache(),
	}
	r.lib = endpointslice.NewReconciler(e.Clientset, corelisters.NewNodeLister(nodes.Indexer), maxEndpoints, r.tracker, r.topology,
		r.Recorder, controllerName, endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	return e.Controller("endpointslice", workers, r.Reconcile,
		env.For(&corev1.Service{}),
		PodChanges(services),
		env.On(&discoveryv1.EndpointSlice{}, env.Changes[*discoveryv1.EndpointSlice]{
			Created: r.sliceCreated, Updated: r.sliceUpdated, Deleted: r.sliceDeleted,
		}),
		env.On(&corev1.Node{}, env.Changes[*corev1.Node]{
			Created: func(_ *corev1.Node, q env.Queue) { r.nodesChanged(q) },
			Updated: func(before, after *corev1.Node, q env.Queue) {
				if topologyChanged(before, after) {
					r.nodesChanged(q)
				}
			},
			Deleted: func(_ *corev1.Node, q env.Queue) { r.nodesChanged(q) },
		}))
}

// PodChanges wakes the Services whose endpoints a change of a pod concerns.
func PodChanges(services lister.Of[*corev1.Service]) env.Watch {
	serviceLister := corelisters.NewServiceLister(services.Indexer)
	add := func(before, after any, q env.Queue) {
		keys, err := util.GetServicesToUpdate(serviceLister, util.GetPodUpdateProjectionKey(before, after))
		if err != nil {
			return // the lister reads a store in memory; it has no errors
		}
		for key := range keys {
			env.Add(q, splitKey(key))
		}
	}
	return env.On(&corev1.Pod{}, env.Changes[*corev1.Pod]{
		Created: func(pod *corev1.Pod, q env.Queue) { add(nil, pod, q) },
		Updated: func(before, after *corev1.Pod, q env.Queue) { add(before, after, q) },
		Deleted: func(pod *corev1.Pod, q env.Queue) { add(nil, pod, q) },
	})
}

// Selected returns the pods that a Service selects.
func Selected(pods lister.Of[*corev1.Pod], svc *corev1.Service) []*corev1.Pod {
	selector := labels.ValidatedSetSelector(svc.Spec.Selector)
	return podstate.Select(pods.In(svc.Namespace), func(pod *corev1.Pod) bool { return selector.Matches(labels.Set(pod.Labels)) })
}

// Reconcile brings the slices of one Service up to date.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	svc, ok := r.Services.Find(req.Namespace, req.Name)
	if !ok {
		r.triggers.DeleteService(req.Namespace, req.Name)
		r.lib.DeleteService(req.Namespace, req.Name)
		r.tracker.DeleteService(req.Namespace, req.Name)
		return ctrl.Result{}, nil // the garbage collector removes the slices
	}
	if svc.Spec.Selector == nil || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return ctrl.Result{}, nil
	}
	slices := r.slicesOf(svc)
	if r.tracker.StaleSlices(svc, slices) {
		return ctrl.Result{RequeueAfter: staleRetry}, nil
	}
	pods := Selected(r.Pods, svc)
	changed := r.triggers.ComputeEndpointLastChangeTriggerTime(svc.Namespace, svc, pods)
	if err := r.lib.Reconcile(klog.FromContext(ctx), svc.DeepCopy(), pods, slices, changed); err != nil {
		if apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: staleRetry}, nil
		}
		r.Recorder.Eventf(svc, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s/%s: %v", svc.Namespace, svc.Name, err)
		return ctrl.Result{}, fmt.Errorf("reconcile slices: %w", err)
	}
	return ctrl.Result{}, nil
}

// slicesOf returns copies of our slices, since the library changes those that it is given.
func (r *Reconciler) slicesOf(svc *corev1.Service) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for _, slice := range r.Slices.Index(lister.ByService, svc.Namespace+"/"+svc.Name) {
		if slice.Labels[discoveryv1.LabelManagedBy] == controllerName && slice.DeletionTimestamp == nil {
			out = append(out, slice.DeepCopy())
		}
	}
	return out
}

func (r *Reconciler) sliceCreated(slice *discoveryv1.EndpointSlice, q env.Queue) {
	if r.lib.ManagedByController(slice) && r.tracker.ShouldSync(slice) {
		wakeService(slice, q)
	}
}

func (r *Reconciler) sliceUpdated(before, after *discoveryv1.EndpointSlice, q env.Queue) {
	if before.Labels[discoveryv1.LabelServiceName] != after.Labels[discoveryv1.LabelServiceName] {
		wakeService(before, q)
		wakeService(after, q)
		return
	}
	if r.lib.ManagedByChanged(before, after) || r.lib.ManagedByController(after) && r.tracker.ShouldSync(after) {
		wakeService(after, q)
	}
}

func (r *Reconciler) sliceDeleted(slice *discoveryv1.EndpointSlice, q env.Queue) {
	if r.lib.ManagedByController(slice) && r.tracker.Has(slice) && !r.tracker.HandleDeletion(slice) {
		wakeService(slice, q)
	}
}

func wakeService(slice *discoveryv1.EndpointSlice, q env.Queue) {
	if name := slice.Labels[discoveryv1.LabelServiceName]; name != "" {
		env.Add(q, types.NamespacedName{Namespace: slice.Namespace, Name: name})
	}
}

// nodesChanged lets hints by zone follow the CPU that the zones have.
func (r *Reconciler) nodesChanged(q env.Queue) {
	r.topology.SetNodes(klog.Background(), r.Nodes.All())
	for _, key := range r.topology.GetOverloadedServices() {
		env.Add(q, splitKey(key))
	}
	for _, svc := range r.Services.All() {
		if svc.Annotations[corev1.AnnotationTopologyMode] != "" {
			env.Add(q, client.ObjectKeyFromObject(svc))
		}
	}
}

func topologyChanged(before, after *corev1.Node) bool {
	return before.Labels[corev1.LabelTopologyZone] != after.Labels[corev1.LabelTopologyZone] ||
		!before.Status.Allocatable.Cpu().Equal(*after.Status.Allocatable.Cpu()) || ready(before) != ready(after)
}

func ready(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func splitKey(key string) types.NamespacedName {
	for i := range key {
		if key[i] == '/' {
			return types.NamespacedName{Namespace: key[:i], Name: key[i+1:]}
		}
	}
	return types.NamespacedName{Name: key}
}
