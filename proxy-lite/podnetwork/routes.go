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

// syncRoutes makes the kernel's routes of our protocol those to the peers.
func syncRoutes(peers []Peer) error {
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
	for _, peer := range peers {
		old, exists := stale[peer.PodCIDR]
		delete(stale, peer.PodCIDR)
		want := routeTo(peer)
		if exists && old.Gw.Equal(want.Gw) && old.Type == want.Type {
			continue
		}
		if err := netlink.RouteReplace(want); err != nil {
			return fmt.Errorf("route to pods %s by %s: %w", peer.PodCIDR, peer.Gateway, err)
		}
	}
	for cidr, route := range stale {
		if err := netlink.RouteDel(&route); err != nil {
			return fmt.Errorf("remove route to pods %s: %w", cidr, err)
		}
	}
	return nil
}

func routeTo(peer Peer) *netlink.Route {
	kind := unix.RTN_UNICAST
	if !peer.Gateway.IsValid() {
		kind = unix.RTN_UNREACHABLE
	}
	return &netlink.Route{
		Type: kind,
		Dst: &net.IPNet{
			IP: peer.PodCIDR.Masked().Addr().AsSlice(), Mask: net.CIDRMask(peer.PodCIDR.Bits(), peer.PodCIDR.Addr().BitLen()),
		},
		Gw:       peer.Gateway.AsSlice(),
		Protocol: routeProtocol,
	}
}
