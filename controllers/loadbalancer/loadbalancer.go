// Package loadbalancer gives Services of type LoadBalancer the addresses of nodes, where no other load balancer is: every node's proxy
// answers for them.
package loadbalancer

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

// most is how many nodes a Service names. More would not make it more reachable, only its status longer.
const most = 3

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	services, err := env.Lister(e, &corev1.Service{})
	if err != nil {
		return err
	}
	nodes, err := env.Lister(e, &corev1.Node{})
	if err != nil {
		return err
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		service, ok := services.Find(req.Namespace, req.Name)
		if !ok || service.DeletionTimestamp != nil {
			return ctrl.Result{}, nil
		}
		want, ours := ingress(service, nodes.All())
		if !ours || equality.Semantic.DeepEqual(want, service.Status.LoadBalancer.Ingress) {
			return ctrl.Result{}, nil
		}
		changed := service.DeepCopy()
		changed.Status.LoadBalancer.Ingress = want
		return ctrl.Result{}, client.IgnoreNotFound(e.Client.Status().Update(ctx, changed))
	}
	balanced := func() []types.NamespacedName { return balancedServices(services) }
	return e.Controller("service-lb", workers, reconcile, env.For(&corev1.Service{}),
		env.On(&corev1.Node{}, env.Changes[*corev1.Node]{
			Created: func(_ *corev1.Node, q env.Queue) { env.Add(q, balanced()...) },
			Updated: func(before, after *corev1.Node, q env.Queue) {
				if usable(before) != usable(after) || !slices.Equal(addresses(before), addresses(after)) {
					env.Add(q, balanced()...)
				}
			},
			Deleted: func(_ *corev1.Node, q env.Queue) { env.Add(q, balanced()...) },
		}))
}

func balancedServices(services lister.Of[*corev1.Service]) []types.NamespacedName {
	var keys []types.NamespacedName
	for _, service := range services.All() {
		if service.Spec.Type == corev1.ServiceTypeLoadBalancer {
			keys = append(keys, client.ObjectKeyFromObject(service))
		}
	}
	return keys
}

// ingress returns the addresses that a Service should have; false if that is another controller's to say. A Service that is of the type
// no longer has none.
func ingress(service *corev1.Service, nodes []*corev1.Node) ([]corev1.LoadBalancerIngress, bool) {
	switch {
	case service.Spec.Type != corev1.ServiceTypeLoadBalancer:
		return nil, true
	case service.Spec.LoadBalancerClass != nil:
		return nil, false
	}
	ready := slices.Clone(nodes)
	ready = slices.DeleteFunc(ready, func(n *corev1.Node) bool { return !usable(n) })
	slices.SortFunc(ready, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	var out []corev1.LoadBalancerIngress
	for _, node := range ready[:min(len(ready), most)] {
		for _, ip := range addresses(node) {
			if slices.Contains(service.Spec.IPFamilies, familyOf(ip)) {
				out = append(out, corev1.LoadBalancerIngress{IP: ip, IPMode: new(corev1.LoadBalancerIPModeVIP)})
			}
		}
	}
	return out, true
}

func usable(node *corev1.Node) bool {
	if _, excluded := node.Labels[corev1.LabelNodeExcludeBalancers]; excluded || node.DeletionTimestamp != nil {
		return false
	}
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func addresses(node *corev1.Node) []string {
	var ips []string
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			ips = append(ips, a.Address)
		}
	}
	return ips
}

func familyOf(ip string) corev1.IPFamily {
	if addr, err := netip.ParseAddr(ip); err == nil && addr.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
