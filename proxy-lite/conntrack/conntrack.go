// Package conntrack forgets flows that lead nowhere. The kernel decides where a flow goes with its first packet. UDP clients that keep
// a socket (resolvers) would talk to an endpoint that is gone, or to a Service as if it still had none, until they pause. A TCP connection
// that was never answered, since its endpoint's node died, would go there for two minutes more, and so would a new one that happens
// to get its port. What is established is left alone: it is reset or times out.
package conntrack

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"keelson.dev/proxy-lite/rules"
)

// Flow is a tracked flow: what the client sends to, and who answers.
type Flow struct {
	Frontend rules.Frontend
	Reply    netip.AddrPort
}

func (f Flow) translated() bool {
	return f.Reply != netip.AddrPortFrom(f.Frontend.Addr, f.Frontend.Port)
}

// Stale says whether a flow contradicts the entries: it goes to an endpoint that its frontend no longer has, or to the frontend
// itself although that has endpoints now. gone are frontends that no longer exist at all.
func Stale(f Flow, entries map[rules.Frontend]rules.Entry, gone map[rules.Frontend]bool) bool {
	if gone[f.Frontend] {
		return f.translated()
	}
	e, ok := entries[f.Frontend]
	if !ok {
		return false
	}
	if !f.translated() {
		return len(e.Endpoints) > 0 || (e.Local != nil && len(*e.Local) > 0)
	}
	return !takes(e, f.Reply)
}

func takes(e rules.Entry, endpoint netip.AddrPort) bool {
	return slices.Contains(e.Endpoints, endpoint) || (e.Local != nil && slices.Contains(*e.Local, endpoint))
}

// Change is what to look at after Services changed: their UDP entries before and after, and the TCP entries that have lost endpoints.
type Change struct {
	entries map[rules.Frontend]rules.Entry
	gone    map[rules.Frontend]bool
}

// Changed compares a Service before and after; add collects several.
func (c *Change) Changed(before, after rules.Service) {
	if c.entries == nil {
		c.entries, c.gone = map[rules.Frontend]rules.Entry{}, map[rules.Frontend]bool{}
	}
	had := map[rules.Frontend]rules.Entry{}
	for _, e := range before.Entries {
		if e.Protocol == rules.UDP || e.Protocol == rules.TCP {
			had[e.Frontend] = e
			c.gone[e.Frontend] = true
		}
	}
	for _, e := range after.Entries {
		delete(c.gone, e.Frontend)
		if e.Protocol == rules.UDP || (e.Protocol == rules.TCP && lost(had[e.Frontend], e)) {
			c.entries[e.Frontend] = e
		}
	}
}

// lost says whether an endpoint is missing after a change.
func lost(before, after rules.Entry) bool {
	missing := func(endpoint netip.AddrPort) bool { return !takes(after, endpoint) }
	return slices.ContainsFunc(before.Endpoints, missing) || (before.Local != nil && slices.ContainsFunc(*before.Local, missing))
}

// Clean deletes the stale flows from the kernel. It is a no-op if nothing that Changed has told of concerns any.
func (c *Change) Clean() (deleted int, err error) {
	families := map[netlink.InetFamily]bool{}
	for _, frontends := range []iter.Seq[rules.Frontend]{maps.Keys(c.gone), maps.Keys(c.entries)} {
		for frontend := range frontends {
			if frontend.Addr.Is6() {
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

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (c *Change) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	dst, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	reply, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	f := Flow{
		Frontend: rules.Frontend{Addr: dst.Unmap(), Port: flow.Forward.DstPort},
		Reply:    netip.AddrPortFrom(reply.Unmap(), flow.Reverse.SrcPort),
	}
	switch flow.Forward.Protocol {
	case unix.IPPROTO_UDP:
		f.Frontend.Protocol = rules.UDP
	case unix.IPPROTO_TCP:
		f.Frontend.Protocol = rules.TCP
		tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
		if !ok || tcp.State != nl.TCP_CONNTRACK_SYN_SENT || !f.translated() {
			return false
		}
	default:
		return false
	}
	return Stale(f, c.entries, c.gone)
}
