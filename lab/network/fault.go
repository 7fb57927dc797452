package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

// Disturbance is what is wrong with a link. Nodes are meant by their addresses on it.
type Disturbance struct {
	Cuts   []Cut
	Losses map[netip.Addr]int           // percent of the frames to and from a node
	Delays map[netip.Addr]time.Duration // of the frames to a node
}

// Cut is a pair of groups of nodes that do not hear of each other. The machine still hears of all.
type Cut struct{ A, B []netip.Addr }

// ErrNoDelay says that the kernel cannot delay frames.
var ErrNoDelay = errors.New("this kernel was built without netem (CONFIG_NET_SCH_NETEM): it cannot delay")

// Disturb makes the link as wrong as d says, instead of how wrong it was; the zero Disturbance mends it.
func (n Network) Disturb(ctx context.Context, d Disturbance) error {
	nft, err := knftables.New(knftables.BridgeFamily, "keelson-fault-"+n.hash())
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{}) // so that the deletion finds one
	tx.Delete(&knftables.Table{})
	if len(d.Cuts)+len(d.Losses) > 0 {
		n.addRules(tx, d)
	}
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("disturb %s: %w", n.Bridge(), err)
	}
	return n.delay(d.Delays)
}

func (n Network) addRules(tx *knftables.Transaction, d Disturbance) {
	tx.Add(&knftables.Table{Comment: new("Keelson cluster " + n.Cluster + ": faults on purpose")})
	for _, hook := range []knftables.BaseChainHook{knftables.ForwardHook, knftables.InputHook, knftables.OutputHook} {
		chain := string(hook)
		tx.Add(&knftables.Chain{Name: chain, Type: knftables.PtrTo(knftables.FilterType), Hook: new(hook), Priority: knftables.PtrTo(knftables.FilterPriority)})
		for _, cut := range d.Cuts {
			for _, a := range cut.A {
				for _, b := range cut.B {
					for _, way := range [][2]netip.Addr{{a, b}, {b, a}} {
						if hook == n.between() && a != b {
							tx.Add(&knftables.Rule{Chain: chain, Rule: knftables.Concat(n.from(way[0]), "oifname", n.veth(way[1]), "drop")})
						}
					}
				}
			}
		}
		for node, percent := range d.Losses {
			for _, side := range []string{"iifname", "oifname"} {
				if side == "oifname" && hook == knftables.InputHook || side == "iifname" && hook == knftables.OutputHook {
					continue // the machine's own side
				}
				tx.Add(&knftables.Rule{Chain: chain, Rule: knftables.Concat(side, n.veth(node), "numgen random mod 100 <", percent, "drop")})
			}
		}
	}
}

// between is the hook that frames from node to node pass: where the machine is a router, it sends them itself.
func (n Network) between() knftables.BaseChainHook {
	if n.Routed {
		return knftables.OutputHook
	}
	return knftables.ForwardHook
}

// from is an expression for what comes from a node, in that hook.
func (n Network) from(node netip.Addr) string {
	if n.Routed {
		return "ip saddr " + node.String()
	}
	return "iifname " + n.veth(node)
}

// delay gives each node's cable the delay that it is to have, and takes it from all others.
func (n Network) delay(delays map[netip.Addr]time.Duration) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	wanted := map[string]time.Duration{}
	for node, by := range delays {
		wanted[n.veth(node)] = by
	}
	for _, link := range links {
		name := link.Attrs().Name
		if len(name) != len(n.veth(n.Gateway())) || name[:10] != n.veth(n.Gateway())[:10] {
			continue
		}
		qdisc := netlink.NewNetem(
			netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			netlink.NetemQdiscAttrs{Latency: uint32(wanted[name].Microseconds())},
		)
		if wanted[name] > 0 {
			err = netlink.QdiscReplace(qdisc)
			if errors.Is(err, unix.ENOENT) {
				return ErrNoDelay
			}
		} else if err = netlink.QdiscDel(qdisc); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			err = nil // it has none
		}
		if err != nil {
			return fmt.Errorf("delay %s: %w", name, err)
		}
	}
	return nil
}
