// Package network is the lab's cable: one bridge per cluster on the machine, one veth pair per node, and address translation for
// what leaves the cluster. Everything is named after the cluster and can be taken away without a trace.
package network

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

// Network is the link that a cluster's nodes share.
type Network struct {
	Cluster string
	Subnet  netip.Prefix // the first address is the machine's
	// Routed keeps nodes from each other: each shares a link with the machine only, which is the router between them.
	Routed bool
}

// Gateway is the machine's address on the link.
func (n Network) Gateway() netip.Addr { return n.Subnet.Masked().Addr().Next() }

// LoadBalancers is the last quarter of the link's addresses: those of Services of type LoadBalancer.
func (n Network) LoadBalancers() netip.Prefix {
	base := n.Subnet.Masked().Addr().As4()
	base[3] |= 192
	return netip.PrefixFrom(netip.AddrFrom4(base), 26)
}

// Bridge is the name of the link on the machine: interface names hold 15 bytes.
func (n Network) Bridge() string { return "kl" + n.hash() }

func (n Network) hash() string {
	h := fnv.New32a()
	h.Write([]byte(n.Cluster))
	return fmt.Sprintf("%08x", h.Sum32())
}

// veth names the machine's end of a node's cable.
func (n Network) veth(address netip.Addr) string {
	return fmt.Sprintf("kv%s%02x", n.hash(), address.As4()[3])
}

// ChooseSubnet returns the first of 172.30.0.0/24, 172.30.1.0/24, ... that no interface and no route of the machine uses.
func ChooseSubnet() (netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list routes: %w", err)
	}
	for third := range 256 {
		candidate := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(third), 0}), 24)
		if !overlapsRoute(candidate, routes) {
			return candidate, nil
		}
	}
	return netip.Prefix{}, errors.New("no free subnet below 172.30.0.0/16: remove an old cluster with keelson down --name")
}

func overlapsRoute(candidate netip.Prefix, routes []netlink.Route) bool {
	for _, route := range routes {
		if route.Dst == nil {
			continue
		}
		ones, _ := route.Dst.Mask.Size()
		address, ok := netip.AddrFromSlice(route.Dst.IP.To4())
		if ok && ones > 0 && candidate.Overlaps(netip.PrefixFrom(address, ones)) {
			return true
		}
	}
	return false
}

// Up makes the bridge, gives the machine its address, and lets nodes reach beyond the machine.
func (n Network) Up(ctx context.Context) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = n.Bridge()
	attributes.HardwareAddr = hardware(n.Gateway()) // without one of its own it changes with the nodes' cables, and nodes send to the old one
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attributes}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make bridge %s: %w", n.Bridge(), err)
	}
	bridge, err := netlink.LinkByName(n.Bridge())
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", n.Bridge(), err)
	}
	if err := netlink.AddrReplace(bridge, addressOn(n.Subnet, n.Gateway())); err != nil {
		return fmt.Errorf("address of bridge %s: %w", n.Bridge(), err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("start bridge %s: %w", n.Bridge(), err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("allow forwarding: %w", err)
	}
	return n.masquerade(ctx)
}

func (n Network) masquerade(ctx context.Context) error {
	nft, err := n.table()
	if err != nil {
		return err
	}
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{Comment: new("Keelson cluster " + n.Cluster + ": the way out")})
	chain := &knftables.Chain{
		Name: "postrouting", Type: knftables.PtrTo(knftables.NATType), Hook: knftables.PtrTo(knftables.PostroutingHook),
		Priority: knftables.PtrTo(knftables.SNATPriority),
	}
	tx.Add(chain)
	tx.Flush(chain)
	tx.Add(&knftables.Rule{Chain: chain.Name, Rule: knftables.Concat("ip saddr", n.Subnet, "oifname !=", n.Bridge(), "masquerade")})
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("translate addresses of %s: %w", n.Bridge(), err)
	}
	return nil
}

func (n Network) table() (knftables.Interface, error) {
	nft, err := knftables.New(knftables.IPv4Family, "keelson-"+n.hash())
	if err != nil {
		return nil, fmt.Errorf("reach nftables: %w", err)
	}
	return nft, nil
}

// Down takes the bridge, its cables and its rules away. What is gone already is no error.
func (n Network) Down(ctx context.Context) error {
	nft, err := n.table()
	if err != nil {
		return err
	}
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{}) // so that the deletion finds one
	tx.Delete(&knftables.Table{})
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("remove rules of %s: %w", n.Bridge(), err)
	}
	links, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) && ctx.Err() == nil { // others come and go
		links, err = netlink.LinkList()
	}
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		// The kernel takes a cable away some time after its node's network namespace.
		name := link.Attrs().Name
		if name != n.Bridge() && !strings.HasPrefix(name, "kv"+n.hash()) {
			continue
		}
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	return nil
}

// Plug gives the network namespace of process pid the interface eth0 with that address and a default route over the machine.
func (n Network) Plug(pid int, address netip.Addr) error {
	bridge, err := netlink.LinkByName(n.Bridge())
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", n.Bridge(), err)
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = n.veth(address)
	attributes.MasterIndex = bridge.Attrs().Index
	if stale, err := netlink.LinkByName(attributes.Name); err == nil { // of a node that lost its power
		if err := netlink.LinkDel(stale); err != nil {
			return fmt.Errorf("remove old cable %s: %w", attributes.Name, err)
		}
	}
	cable := &netlink.Veth{LinkAttrs: attributes, PeerName: "eth0", PeerNamespace: netlink.NsPid(pid), PeerHardwareAddr: hardware(address)}
	if err := netlink.LinkAdd(cable); err != nil {
		return fmt.Errorf("make cable %s: %w", attributes.Name, err)
	}
	if err := netlink.LinkSetIsolated(cable, n.Routed); err != nil {
		return fmt.Errorf("isolate cable %s: %w", attributes.Name, err)
	}
	if err := netlink.LinkSetUp(cable); err != nil {
		return fmt.Errorf("start cable %s: %w", attributes.Name, err)
	}
	return n.configure(pid, address)
}

// hardware is the link-layer address of who has that address: the same whenever a node comes back, so that no neighbour sends to one
// that is gone.
func hardware(address netip.Addr) net.HardwareAddr {
	four := address.As4()
	return net.HardwareAddr{0x0a, 0x58, four[0], four[1], four[2], four[3]} // locally administered
}

// configure sets up the node's end.
func (n Network) configure(pid int, address netip.Addr) error {
	namespace, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("open network namespace of process %d: %w", pid, err)
	}
	defer namespace.Close()
	inside, err := netlink.NewHandleAt(namespace)
	if err != nil {
		return fmt.Errorf("enter network namespace of process %d: %w", pid, err)
	}
	defer inside.Close()
	gateway := &netlink.Route{Gw: net.IP(n.Gateway().AsSlice()), Flags: int(netlink.FLAG_ONLINK)}
	for _, name := range []string{"lo", "eth0"} {
		link, err := inside.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s in node: %w", name, err)
		}
		if name == "eth0" {
			subnet := n.Subnet
			if n.Routed {
				subnet = netip.PrefixFrom(address, address.BitLen())
			}
			if err := inside.AddrReplace(link, addressOn(subnet, address)); err != nil {
				return fmt.Errorf("address of node: %w", err)
			}
			gateway.LinkIndex = link.Attrs().Index
		}
		if err := inside.LinkSetUp(link); err != nil {
			return fmt.Errorf("start %s in node: %w", name, err)
		}
	}
	if err := inside.RouteReplace(gateway); err != nil {
		return fmt.Errorf("default route of node: %w", err)
	}
	return nil
}

func addressOn(subnet netip.Prefix, address netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(subnet.Bits(), address.BitLen())}}
}
