package podnetwork

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that are ours to remove (rtnetlink's protocol numbers from 192 up are free for daemons).
const routeProtocol netlink.RouteProtocol = 201

// syncRoutes makes the kernel's routes of our protocol the wanted ones. One that cannot be made keeps no other from it.
func syncRoutes(wanted map[netip.Prefix]*netlink.Route) error {
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
	var errs []error
	for cidr, want := range wanted {
		old, exists := stale[cidr]
		delete(stale, cidr)
		if exists && old.Gw.Equal(want.Gw) && old.Type == want.Type {
			continue
		}
		if exists && cidr.Addr().Is6() && want.LinkIndex != 0 { // else the kernel holds the gateway against the old route
			if err := netlink.RouteDel(&old); err != nil {
				errs = append(errs, fmt.Errorf("remove route to pods %s: %w", cidr, err))
			}
		}
		if err := netlink.RouteReplace(want); err != nil {
			errs = append(errs, fmt.Errorf("route to pods %s by %q: %w", cidr, want.Gw, err))
		}
	}
	for cidr, route := range stale {
		if err := netlink.RouteDel(&route); err != nil {
			errs = append(errs, fmt.Errorf("remove route to pods %s: %w", cidr, err))
		}
	}
	return errors.Join(errs...)
}

// routes are those of the network: one to each peer, and for the node's own ranges one that swallows what no pod's own route takes.
// Without that, a packet to a pod that has gone would leave the node by its default route. devices are the tunnels' by family.
func routes(network Network, devices map[int]int) map[netip.Prefix]*netlink.Route {
	wanted := map[netip.Prefix]*netlink.Route{}
	for _, cidr := range network.PodCIDRs {
		wanted[cidr.Masked()] = &netlink.Route{Type: unix.RTN_BLACKHOLE}
	}
	for _, peer := range network.Peers {
		wanted[peer.PodCIDR.Masked()] = peer.route(devices[family(peer.PodCIDR.Addr())])
	}
	for cidr, route := range wanted {
		route.Dst = &net.IPNet{IP: cidr.Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen())}
		route.Protocol = routeProtocol
	}
	return wanted
}

// route is the way to the peer's pods; device is the tunnel's, 0 if there is none.
func (p Peer) route(device int) *netlink.Route {
	switch {
	case p.Tunnel && device != 0:
		return &netlink.Route{Type: unix.RTN_UNICAST, Gw: end(p.PodCIDR).AsSlice(), LinkIndex: device, Flags: int(netlink.FLAG_ONLINK)}
	case p.Tunnel || !p.Gateway.IsValid():
		return &netlink.Route{Type: unix.RTN_UNREACHABLE}
	default:
		return &netlink.Route{Type: unix.RTN_UNICAST, Gw: p.Gateway.AsSlice()}
	}
}
