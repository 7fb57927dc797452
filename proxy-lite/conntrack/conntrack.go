// Package conntrack forgets UDP flows that lead nowhere. The kernel decides where a flow goes with its first packet; UDP clients
// that keep a socket (resolvers) would talk to an endpoint that is gone, or to a Service as if it still had none, until they
// pause. TCP needs no help: it is reset or times out.
package conntrack

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"keelson.dev/proxy-lite/rules"
)

// Flow is a tracked UDP flow: what the client sends to, and who answers.
type Flow struct {
	Dst   netip.AddrPort
	Reply netip.AddrPort
}

// Stale says whether a flow contradicts the entries: it goes to an endpoint that its frontend no longer has, or to the frontend
// itself although that has endpoints now. gone are frontends that no longer exist at all.
func Stale(f Flow, entries map[netip.AddrPort]rules.Entry, gone map[netip.AddrPort]bool) bool {
	translated := f.Reply != f.Dst
	if gone[f.Dst] {
		return translated
	}
	e, ok := entries[f.Dst]
	if !ok {
		return false
	}
	if !translated {
		return len(e.Endpoints) > 0 || (e.Local != nil && len(*e.Local) > 0)
	}
	return !slices.Contains(e.Endpoints, f.Reply) && (e.Local == nil || !slices.Contains(*e.Local, f.Reply))
}

// Change is what to look at after Services changed: their UDP entries before and after.
type Change struct {
	entries map[netip.AddrPort]rules.Entry
	gone    map[netip.AddrPort]bool
}

// Changed compares a Service before and after; add collects several.
func (c *Change) Changed(before, after rules.Service) {
	if c.entries == nil {
		c.entries, c.gone = map[netip.AddrPort]rules.Entry{}, map[netip.AddrPort]bool{}
	}
	for _, e := range before.Entries {
		if e.Protocol == rules.UDP {
			c.gone[netip.AddrPortFrom(e.Addr, e.Frontend.Port)] = true
		}
	}
	for _, e := range after.Entries {
		if e.Protocol == rules.UDP {
			key := netip.AddrPortFrom(e.Addr, e.Frontend.Port)
			delete(c.gone, key)
			c.entries[key] = e
		}
	}
}

// Clean deletes the stale flows from the kernel. It is a no-op if no UDP frontend changed.
func (c *Change) Clean() (deleted int, err error) {
	if len(c.entries)+len(c.gone) == 0 {
		return 0, nil
	}
	families := map[netlink.InetFamily]bool{}
	for _, keys := range []map[netip.AddrPort]bool{c.gone, keysOf(c.entries)} {
		for key := range keys {
			if key.Addr().Is6() {
				families[unix.AF_INET6] = true
			} else {
				families[unix.AF_INET] = true
			}
		}
	}
	for family := range families {
		n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, c)
		deleted += int(n)
		if err != nil {
			return deleted, fmt.Errorf("delete conntrack entries: %w", err)
		}
	}
	return deleted, nil
}

func keysOf(entries map[netip.AddrPort]rules.Entry) map[netip.AddrPort]bool {
	out := make(map[netip.AddrPort]bool, len(entries))
	for key := range entries {
		out[key] = true
	}
	return out
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (c *Change) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	reply, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return ok1 && ok2 && Stale(Flow{
		Dst:   netip.AddrPortFrom(dst.Unmap(), flow.Forward.DstPort),
		Reply: netip.AddrPortFrom(reply.Unmap(), flow.Reverse.SrcPort),
	}, c.entries, c.gone)
}
