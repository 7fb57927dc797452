package podnetwork

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tunnel's port is Linux's and flannel's, which firewalls of clusters know; some hypervisors keep 4789, IANA's, for themselves.
const (
	tunnelPort = 8472
	tunnelID   = 1
)

const ethernetMTU = 1500

// tunnel carries packets to the pods of nodes that share no link with this one, as VXLAN (RFC 7348) between the nodes' addresses.
// Nothing is learned, since Node objects tell all: a node's end has the first address of its pod CIDR, which no pod gets, and
// a link-layer address that follows from the node's. For each peer there are a route to its pods by its end, a neighbour entry for
// that end, and an entry in the forwarding database with the node that it is on.
type tunnel struct {
	device   string
	family   int
	overhead int // bytes by which a packet grows: headers of Ethernet, VXLAN, UDP and IP
}

// tunnels are one for each family of node addresses, of which a device has one.
var tunnels = []tunnel{{"keelson-vxlan", unix.AF_INET, 50}, {"keelson-vxlan6", unix.AF_INET6, 70}}

func family(address netip.Addr) int {
	if address.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// peers are those that are behind the tunnel.
func (t tunnel) peers(network Network) []Peer {
	var own []Peer
	for _, peer := range network.Peers {
		if peer.Tunnel && family(peer.Gateway) == t.family {
			own = append(own, peer)
		}
	}
	return own
}

// open makes the device, and what it knows of peers, as they have to be, and returns the device's index: 0 as long as this node has no
// address.
func (t tunnel) open(network Network) (int, error) {
	i := slices.IndexFunc(network.Addresses, func(a netip.Addr) bool { return family(a) == t.family })
	if i < 0 {
		return 0, nil
	}
	mtu, err := linkMTU(network.Addresses[i])
	if err != nil {
		return 0, err
	}
	device, err := t.makeDevice(network.Addresses[i], mtu-t.overhead)
	if err != nil {
		return 0, err
	}
	index := device.Attrs().Index
	for _, cidr := range network.PodCIDRs {
		if family(cidr.Addr()) == t.family {
			err = errors.Join(err, t.setAddress(device, end(cidr)))
		}
	}
	return index, errors.Join(err, t.syncNeighbours(index, t.peers(network)))
}

// makeDevice makes the device, or leaves it if it is right.
func (t tunnel) makeDevice(local netip.Addr, mtu int) (netlink.Link, error) {
	device, err := netlink.LinkByName(t.device)
	if err != nil || !t.fits(device, local) {
		if err := t.close(); err != nil {
			return nil, err
		}
		attributes := netlink.NewLinkAttrs()
		attributes.Name, attributes.HardwareAddr = t.device, hardware(local)
		device = &netlink.Vxlan{LinkAttrs: attributes, VxlanId: tunnelID, SrcAddr: local.AsSlice(), Port: tunnelPort}
		if err := netlink.LinkAdd(device); err != nil {
			return nil, fmt.Errorf("make VXLAN device %s: %w", t.device, err)
		}
	}
	if err := netlink.LinkSetMTU(device, mtu); err != nil {
		return nil, fmt.Errorf("MTU of %s: %w", t.device, err)
	}
	if err := netlink.LinkSetUp(device); err != nil {
		return nil, fmt.Errorf("start %s: %w", t.device, err)
	}
	return device, nil
}

// fits says whether a device is as makeDevice would make it for that address.
func (t tunnel) fits(device netlink.Link, local netip.Addr) bool {
	vxlan, ok := device.(*netlink.Vxlan)
	return ok && vxlan.VxlanId == tunnelID && vxlan.Port == tunnelPort && vxlan.SrcAddr.Equal(local.AsSlice()) &&
		vxlan.HardwareAddr.String() == hardware(local).String()
}

// setAddress gives the device that address and no other. By it the node itself reaches pods, and their answers come back.
func (t tunnel) setAddress(device netlink.Link, address netip.Addr) error {
	have, err := netlink.AddrList(device, t.family)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", t.device, err)
	}
	found := false
	for i := range have {
		if have[i].IP.Equal(address.AsSlice()) {
			found = true
			continue
		}
		if have[i].IP.IsLinkLocalUnicast() {
			continue // the kernel's
		}
		if err := netlink.AddrDel(device, &have[i]); err != nil {
			return fmt.Errorf("remove address of %s: %w", t.device, err)
		}
	}
	if found {
		return nil
	}
	bits := address.BitLen()
	want := &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(bits, bits)}}
	if t.family == unix.AF_INET6 {
		want.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(device, want); err != nil {
		return fmt.Errorf("address %s of %s: %w", address, t.device, err)
	}
	return nil
}

// syncNeighbours makes the device's neighbours and its forwarding database those of the peers.
func (t tunnel) syncNeighbours(index int, peers []Peer) error {
	stale := map[string]netlink.Neigh{}
	for _, family := range []int{t.family, unix.AF_BRIDGE} {
		present, err := netlink.NeighList(index, family)
		if err != nil {
			return fmt.Errorf("list neighbours on %s: %w", t.device, err)
		}
		for i := range present {
			if present[i].IP != nil && present[i].State&unix.NUD_NOARP == 0 { // those are the kernel's, for multicast
				stale[identity(&present[i])] = present[i]
			}
		}
	}
	var missing []netlink.Neigh
	for _, want := range t.neighbours(index, peers) {
		if have, ok := stale[identity(&want)]; !ok || have.State&unix.NUD_PERMANENT == 0 {
			missing = append(missing, want)
		}
		delete(stale, identity(&want))
	}
	var errs []error
	for _, old := range stale { // first: the new entry may be for the same end
		if err := netlink.NeighDel(&old); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("forget neighbour %s on %s: %w", old.IP, t.device, err))
		}
	}
	for i := range missing {
		if err := netlink.NeighSet(&missing[i]); err != nil {
			errs = append(errs, fmt.Errorf("neighbour %s on %s: %w", missing[i].IP, t.device, err))
		}
	}
	return errors.Join(errs...)
}

func (t tunnel) neighbours(index int, peers []Peer) []netlink.Neigh {
	var entries []netlink.Neigh
	for _, peer := range peers {
		entry := netlink.Neigh{LinkIndex: index, State: unix.NUD_PERMANENT, HardwareAddr: hardware(peer.Gateway)}
		entry.Family, entry.IP = t.family, end(peer.PodCIDR).AsSlice()
		entries = append(entries, entry)
		entry.Family, entry.IP, entry.Flags = unix.AF_BRIDGE, peer.Gateway.AsSlice(), unix.NTF_SELF
		entries = append(entries, entry)
	}
	return entries
}

func identity(n *netlink.Neigh) string { return fmt.Sprint(n.Family, n.IP, n.HardwareAddr) }

// close removes the device, and with it all that it knew.
func (t tunnel) close() error {
	device, err := netlink.LinkByName(t.device)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", t.device, err)
	}
	if err := netlink.LinkDel(device); err != nil {
		return fmt.Errorf("remove %s: %w", t.device, err)
	}
	return nil
}

// end is the address of a node's end of the tunnel.
func end(podCIDR netip.Prefix) netip.Addr { return podCIDR.Masked().Addr() }

// hardware is the link-layer address of a node's end of the tunnel, which others have to know.
func hardware(node netip.Addr) net.HardwareAddr {
	sum := sha256.Sum256(node.AsSlice())
	sum[0] = sum[0]&^1 | 2 // unicast, locally administered
	return sum[:6]
}

// linkMTU is that of the link that has the address of this node. The loopback link has addresses for all others, and says nothing of them.
func linkMTU(address netip.Addr) (int, error) {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return 0, fmt.Errorf("list addresses: %w", err)
	}
	for i := range all {
		if !all[i].IP.Equal(address.AsSlice()) {
			continue
		}
		link, err := netlink.LinkByIndex(all[i].LinkIndex)
		if err != nil {
			return 0, fmt.Errorf("find link of %s: %w", address, err)
		}
		if link.Attrs().Flags&net.FlagLoopback != 0 {
			return ethernetMTU, nil
		}
		return link.Attrs().MTU, nil
	}
	return 0, fmt.Errorf("no link of this node has its address %s", address)
}

// sharesLink says whether a node is reached without a router, which would know nothing of its pods.
func sharesLink(node netip.Addr) bool {
	routes, err := netlink.RouteGet(node.AsSlice())
	return err == nil && len(routes) > 0 && routes[0].Gw == nil
}
