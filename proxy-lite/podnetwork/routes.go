package podnetwork

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that are ours to remove (rtnetlink's protocol numbers from 192 up are free for daemons).
const routeProtocol netlink.RouteProtocol = 201

// syncRoutes makes the kernel's routes of our protocol those of the network: one to each peer, and for the node's own ranges one that
// swallows what no pod's own route takes. Without that, a packet to a pod that has gone would leave the node by its default route.
func syncRoutes(network Network) error {
	present, err := netlink.RouteListFiltered(netlink.FAMILY_ALL,
		&netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	stale := map[netip.Prefix]netlink.Route{}
	for _, route := range present {
		if route.Dst == nil {
			continue
		}
		if address, ok := netip.AddrFromSlice(route.Dst.IP); ok {
			ones, _ := route.Dst.Mask.Size()
			stale[netip.PrefixFrom(address.Unmap(), ones)] = route
		}
	}
	for cidr, want := range routes(network) {
		old, exists := stale[cidr]
		delete(stale, cidr)
		if exists && old.Gw.Equal(want.Gw) && old.Type == want.Type {
			continue
		}
		if err := netlink.RouteReplace(want); err != nil {
			return fmt.Errorf("route to pods %s by %q: %w", cidr, want.Gw, err)
		}
	}
	for cidr, route := range stale {
		if err := netlink.RouteDel(&route); err != nil {
			return fmt.Errorf("remove route to pods %s: %w", cidr, err)
		}
	}
	return nil
}

func routes(network Network) map[netip.Prefix]*netlink.Route {
	wanted := map[netip.Prefix]*netlink.Route{}
	for _, cidr := range network.PodCIDRs {
		wanted[cidr.Masked()] = &netlink.Route{Type: unix.RTN_BLACKHOLE}
	}
	for _, peer := range network.Peers {
		route := &netlink.Route{Type: unix.RTN_UNICAST, Gw: peer.Gateway.AsSlice()}
		if !peer.Gateway.IsValid() {
			route.Type = unix.RTN_UNREACHABLE
		}
		wanted[peer.PodCIDR.Masked()] = route
	}
	for cidr, route := range wanted {
		route.Dst = &net.IPNet{IP: cidr.Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen())}
		route.Protocol = routeProtocol
	}
	return wanted
}
