package proxier

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/internal/vip"
	"keelson.dev/proxy-lite/announce"
)

// announcer makes this node answer for the load-balancer addresses that were given to it. Only the loop uses it.
type announcer struct {
	node      string
	addresses map[types.NamespacedName]netip.Addr
	current   []netip.Addr // what the kernel has; nil before the first time
}

// vipOf returns the address of a Service that this node answers for.
func vipOf(svc *corev1.Service, node string) (netip.Addr, bool) {
	if svc == nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.Annotations[vip.NodeAnnotation] != node {
		return netip.Addr{}, false
	}
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if address, err := netip.ParseAddr(ingress.IP); err == nil && address.Is4() {
			return address, true
		}
	}
	return netip.Addr{}, false
}

// update takes over Services that changed; find returns nil for one that is gone.
func (a *announcer) update(names map[types.NamespacedName]bool, find func(types.NamespacedName) *corev1.Service) error {
	for name := range names {
		if address, ok := vipOf(find(name), a.node); ok {
			a.addresses[name] = address
		} else {
			delete(a.addresses, name)
		}
	}
	wanted := slices.SortedFunc(maps.Values(a.addresses), netip.Addr.Compare)
	if a.current != nil && slices.Equal(wanted, a.current) {
		return nil
	}
	if err := announce.Addresses(wanted); err != nil {
		return fmt.Errorf("load-balancer addresses: %w", err)
	}
	a.current = append([]netip.Addr{}, wanted...)
	return nil
}
