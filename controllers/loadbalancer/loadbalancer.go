// Package loadbalancer gives Services of type LoadBalancer addresses out of a range that belongs to the nodes' own network: one for each
// Service, so that many can have the same port, and one node that answers for it. That node's service proxy (proxy-lite) takes the
// address; when the node is lost, or has no endpoint of a Service that wants local ones, another takes over.
package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/expectation"
	"keelson.dev/internal/lister"
	"keelson.dev/internal/vip"
)

// cleanup holds a Service until its address is free again; the name is upstream's.
const cleanup = "service.kubernetes.io/load-balancer-cleanup"

// pool stands for the owner of all addresses: they are given out by looking at what all Services have.
const pool = types.UID("pool")

type reconciler struct {
	client    client.Client
	services  lister.Of[*corev1.Service]
	nodes     lister.Of[*corev1.Node]
	slices    lister.Of[*discoveryv1.EndpointSlice]
	recorder  record.EventRecorder
	pending   *expectation.Tracker
	addresses netip.Prefix
}

// Add wires the controller. One worker gives out the addresses, so that none is given twice.
func Add(e *env.Env, addresses netip.Prefix) error {
	services, err := env.Lister(e, &corev1.Service{})
	if err != nil {
		return err
	}
	nodes, err := env.Lister(e, &corev1.Node{})
	if err != nil {
		return err
	}
	endpoints, err := env.Lister(e, &discoveryv1.EndpointSlice{})
	if err != nil {
		return err
	}
	r := &reconciler{
		client: e.Client, services: services, nodes: nodes, slices: endpoints, addresses: addresses,
		recorder: e.Recorder("service-controller"), pending: expectation.New(services),
	}
	all := func(q env.Queue) {
		for _, service := range services.All() {
			if ours(service) {
				env.Add(q, client.ObjectKeyFromObject(service))
			}
		}
	}
	return e.Controller("service-lb", 1, r.reconcile, env.For(&corev1.Service{}),
		env.On(&corev1.Service{}, env.Changes[*corev1.Service]{Deleted: func(_ *corev1.Service, q env.Queue) { all(q) }}),
		env.Mapped(&discoveryv1.EndpointSlice{}, func(slice *discoveryv1.EndpointSlice) []types.NamespacedName {
			service, ok := services.Find(slice.Namespace, slice.Labels[discoveryv1.LabelServiceName])
			if !ok || !ours(service) || service.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
				return nil
			}
			return []types.NamespacedName{client.ObjectKeyFromObject(service)}
		}),
		env.On(&corev1.Node{}, env.Changes[*corev1.Node]{
			Created: func(_ *corev1.Node, q env.Queue) { all(q) },
			Updated: func(before, after *corev1.Node, q env.Queue) {
				if usable(before) != usable(after) {
					all(q)
				}
			},
			Deleted: func(_ *corev1.Node, q env.Queue) { all(q) },
		}))
}

func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cached, ok := r.services.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	if !r.pending.Satisfied(pool) {
		return ctrl.Result{RequeueAfter: expectation.Retry}, nil
	}
	service := cached.DeepCopy()
	if !ours(service) {
		return ctrl.Result{}, r.release(ctx, service)
	}
	address, err := choose(service, r.services.All(), r.addresses)
	if err != nil {
		r.recorder.Eventf(service, corev1.EventTypeWarning, "SyncLoadBalancerFailed", "Error syncing load balancer: %v", err)
		return ctrl.Result{}, nil // a Service that goes wakes us
	}
	if err := r.hold(ctx, service, place(service, r.nodes.All(), r.servingNodes(service))); err != nil {
		return ctrl.Result{}, err
	}
	want := []corev1.LoadBalancerIngress{{IP: address.String(), IPMode: new(corev1.LoadBalancerIPModeVIP)}}
	if equality.Semantic.DeepEqual(want, service.Status.LoadBalancer.Ingress) {
		return ctrl.Result{}, nil
	}
	service.Status.LoadBalancer.Ingress = want
	if err := r.wrote(service, r.client.Status().Update(ctx, service)); err != nil {
		return ctrl.Result{}, fmt.Errorf("write address: %w", err)
	}
	r.recorder.Event(service, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
	return ctrl.Result{}, nil
}

// hold writes the finalizer, and the node that answers.
func (r *reconciler) hold(ctx context.Context, service *corev1.Service, node string) error {
	if slices.Contains(service.Finalizers, cleanup) && service.Annotations[vip.NodeAnnotation] == node {
		return nil
	}
	if !slices.Contains(service.Finalizers, cleanup) {
		service.Finalizers = append(service.Finalizers, cleanup)
	}
	if service.Annotations == nil {
		service.Annotations = map[string]string{}
	}
	service.Annotations[vip.NodeAnnotation] = node
	if err := r.wrote(service, r.client.Status().Update(ctx, service)); err != nil {
		return fmt.Errorf("write node: %w", err)
	}
	return nil
}

// release takes the address back: first out of the status, and then the Service may go.
func (r *reconciler) release(ctx context.Context, service *corev1.Service) error {
	if !slices.Contains(service.Finalizers, cleanup) || service.Annotations[vip.NodeAnnotation] == "" && service.Spec.LoadBalancerClass != nil {
		return nil // another controller's, or nobody's
	}
	if len(service.Status.LoadBalancer.Ingress) > 0 {
		service.Status.LoadBalancer.Ingress = nil
		if err := r.wrote(service, r.client.Status().Update(ctx, service)); err != nil {
			return client.IgnoreNotFound(fmt.Errorf("remove address: %w", err))
		}
	}
	service.Finalizers = slices.DeleteFunc(service.Finalizers, func(f string) bool { return f == cleanup })
	delete(service.Annotations, vip.NodeAnnotation)
	if err := r.wrote(service, r.client.Status().Update(ctx, service)); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("remove finalizer: %w", err))
	}
	r.recorder.Event(service, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")
	return nil
}

func (r *reconciler) wrote(service *corev1.Service, err error) error {
	if err == nil {
		r.pending.Wrote(pool, service)
	}
	return err
}

// servingNodes are the nodes with a ready endpoint of a Service.
func (r *reconciler) servingNodes(service *corev1.Service) map[string]bool {
	nodes := map[string]bool{}
	for _, slice := range r.slices.In(service.Namespace) {
		if slice.Labels[discoveryv1.LabelServiceName] != service.Name {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			if endpoint.NodeName != nil && (endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready) {
				nodes[*endpoint.NodeName] = true
			}
		}
	}
	return nodes
}
