package loadbalancer

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"keelson.dev/internal/vip"
)

var errNoIPv4 = errors.New("addresses are IPv4 only, and the Service is not")

// ours tells whether a Service should have an address of us. One with a class is another controller's.
func ours(service *corev1.Service) bool {
	return service.Spec.Type == corev1.ServiceTypeLoadBalancer && service.Spec.LoadBalancerClass == nil && service.DeletionTimestamp == nil
}

// choose returns the address of a Service: the one that it has, the one that it asks for, or the first that is free.
func choose(service *corev1.Service, all []*corev1.Service, addresses netip.Prefix) (netip.Addr, error) {
	if !slices.Contains(service.Spec.IPFamilies, corev1.IPv4Protocol) {
		return netip.Addr{}, errNoIPv4
	}
	used := map[netip.Addr]bool{}
	for _, other := range all {
		if other.UID != service.UID {
			if address, ok := addressOf(other); ok {
				used[address] = true
			}
		}
	}
	asked := service.Spec.LoadBalancerIP
	if address, ok := addressOf(service); ok && addresses.Contains(address) && !used[address] && (asked == "" || asked == address.String()) {
		return address, nil
	}
	if asked != "" {
		address, err := netip.ParseAddr(asked)
		if err != nil || !addresses.Contains(address) || used[address] {
			return netip.Addr{}, fmt.Errorf("requested address %s is not available in %s", asked, addresses)
		}
		return address, nil
	}
	// The last address of a network is its broadcast address, and the range may be at its end.
	for address := addresses.Masked().Addr(); addresses.Contains(address.Next()); address = address.Next() {
		if !used[address] {
			return address, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address of %s is free", addresses)
}

func addressOf(service *corev1.Service) (netip.Addr, bool) {
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if address, err := netip.ParseAddr(ingress.IP); err == nil {
			return address, true
		}
	}
	return netip.Addr{}, false
}

// place returns the node that answers for a Service: the one that does already, as long as it can, and otherwise one that the Service's
// uid chooses, so that Services spread. Empty, if none can.
func place(service *corev1.Service, nodes []*corev1.Node, serving map[string]bool) string {
	current, best, most := service.Annotations[vip.NodeAnnotation], "", uint32(0)
	for _, node := range nodes {
		if !usable(node) || service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && !serving[node.Name] {
			continue
		}
		if node.Name == current {
			return current
		}
		h := fnv.New32a()
		h.Write([]byte(string(service.UID) + node.Name))
		if weight := h.Sum32(); best == "" || weight > most || weight == most && node.Name < best {
			best, most = node.Name, weight
		}
	}
	return best
}

func usable(node *corev1.Node) bool {
	if _, excluded := node.Labels[corev1.LabelNodeExcludeBalancers]; excluded || node.DeletionTimestamp != nil {
		return false
	}
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
