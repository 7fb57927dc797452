// Package conntrack forgets flows that lead nowhere. The kernel decides where a flow goes with its first packet. UDP clients that keep
// a socket (resolvers) would talk to an endpoint that is gone, or to a Service as if it still had none, until they pause. A TCP connection
// that was never answered, since its endpoint's node died, would go there for two minutes more, and so would a new one that happens
// to get its port. The same holds for a connection that its client has closed, or sends on, and nobody acknowledges: the client's kernel
// gives it and its port up after 100 seconds, and this one keeps it for up to five minutes. Every other connection is left alone.
package conntrack

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"keelson.dev/proxy-lite/rules"
)

// timeoutClose is the setting of how many seconds the kernel keeps a connection that was reset. While it does, it sends a new one from the
// same port to the same endpoint, which may be gone meanwhile.
const timeoutClose = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close"

// Tune has the kernel forget connections that were reset after the shortest time that it knows.
func Tune() error {
	if err := os.WriteFile(timeoutClose, []byte("1"), 0o600); err != nil {
		return fmt.Errorf("set how long reset connections are kept: %w", err)
	}
	return nil
}

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

// Patience is how long nobody has acknowledged that a connection is closed when it is forgotten: enough for packets that were lost on
// the way, and less than a client's kernel keeps the port (tcp_orphan_retries in the kernel's ip-sysctl.txt).
const Patience = 30 * time.Second

// An established connection is kept for days, but only for unacknowledged after data that nobody has acknowledged yet
// (nf_conntrack_tcp_timeout_unacknowledged, the kernel's default). When silence of that has passed it is not merely busy: the client
// repeats the data at growing intervals.
const (
	unacknowledged = 5 * time.Minute
	silence        = 10 * time.Second
)

// Flows follows what Services lose. It is not for concurrent use.
type Flows struct {
	// Patience is Patience, unless it is a test's.
	Patience time.Duration

	// entries and gone are of the changes since Clean: UDP frontends that are there, and those that are not.
	entries map[rules.Frontend]rules.Entry
	gone    map[rules.Frontend]bool
	// lost are the TCP endpoints that left their frontends while connections to them remain: true, if the present look found one.
	lost map[Flow]bool
	// closing are the connections to lost endpoints that are being closed, and since when; next is what the present look finds.
	closing, next map[connection]time.Time
	// fresh says that something changed since the last look, which was at now.
	fresh bool
	now   time.Time
}

// connection is a flow and its client.
type connection struct {
	Flow
	client netip.AddrPort
}

// Changed compares a Service before and after; what it finds is for Clean.
func (f *Flows) Changed(before, after rules.Service) {
	if f.entries == nil {
		f.entries, f.gone, f.lost = map[rules.Frontend]rules.Entry{}, map[rules.Frontend]bool{}, map[Flow]bool{}
	}
	had := map[Flow]bool{}
	for flow := range endpoints(before) {
		had[flow] = false
	}
	for flow := range endpoints(after) {
		delete(had, flow)
		delete(f.lost, flow)
	}
	f.fresh = f.fresh || len(had) > 0
	maps.Copy(f.lost, had)
	for _, e := range before.Entries {
		if e.Protocol == rules.UDP {
			f.gone[e.Frontend], f.fresh = true, true
		}
	}
	for _, e := range after.Entries {
		if e.Protocol == rules.UDP {
			delete(f.gone, e.Frontend)
			f.entries[e.Frontend], f.fresh = e, true
		}
	}
}

// endpoints yields where a Service's TCP connections go.
func endpoints(s rules.Service) iter.Seq[Flow] {
	return func(yield func(Flow) bool) {
		for _, e := range s.Entries {
			if e.Protocol != rules.TCP {
				continue
			}
			all := e.Endpoints
			if e.Local != nil {
				all = slices.Concat(all, *e.Local)
			}
			for _, endpoint := range all {
				if !yield(Flow{e.Frontend, endpoint}) {
					return
				}
			}
		}
	}
}

// Clean deletes the stale flows from the kernel and tells how many. After changes that concern none it is a no-op. If again is true,
// connections to endpoints that are gone remain, and it is to be called again when Patience has passed.
func (f *Flows) Clean(now time.Time) (deleted int, again bool, err error) {
	if !f.fresh && now.Sub(f.now) < f.Patience {
		return 0, len(f.lost) > 0, nil
	}
	families := map[netlink.InetFamily]bool{}
	note := func(frontend rules.Frontend) {
		if frontend.Addr.Is6() {
			families[unix.AF_INET6] = true
		} else {
			families[unix.AF_INET] = true
		}
	}
	for frontend := range f.gone {
		note(frontend)
	}
	for frontend := range f.entries {
		note(frontend)
	}
	for flow := range f.lost {
		note(flow.Frontend)
	}
	f.begin(now)
	for family := range families {
		n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, f)
		deleted += int(n)
		if err != nil {
			return deleted, len(f.lost) > 0, fmt.Errorf("delete conntrack entries: %w", err)
		}
	}
	f.end()
	return deleted, len(f.lost) > 0, nil
}

// begin a look at the kernel's connections.
func (f *Flows) begin(now time.Time) {
	f.now, f.next = now, map[connection]time.Time{}
	for flow := range f.lost {
		f.lost[flow] = false
	}
}

func (f *Flows) end() {
	maps.DeleteFunc(f.lost, func(_ Flow, found bool) bool { return !found })
	f.closing, f.fresh = f.next, false
	clear(f.entries)
	clear(f.gone)
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *Flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	src, ok0 := netip.AddrFromSlice(flow.Forward.SrcIP)
	dst, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	reply, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok0 || !ok1 || !ok2 {
		return false
	}
	c := connection{client: netip.AddrPortFrom(src.Unmap(), flow.Forward.SrcPort), Flow: Flow{
		Frontend: rules.Frontend{Addr: dst.Unmap(), Port: flow.Forward.DstPort},
		Reply:    netip.AddrPortFrom(reply.Unmap(), flow.Reverse.SrcPort),
	}}
	switch flow.Forward.Protocol {
	case unix.IPPROTO_UDP:
		c.Frontend.Protocol = rules.UDP
		return Stale(c.Flow, f.entries, f.gone)
	case unix.IPPROTO_TCP:
		c.Frontend.Protocol = rules.TCP
		tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
		return ok && f.staleConnection(c, tcp.State, time.Duration(flow.TimeOut)*time.Second)
	}
	return false
}

// staleConnection decides by a connection's state and by how long the kernel keeps it if no packet comes.
func (f *Flows) staleConnection(c connection, state uint8, kept time.Duration) bool {
	if _, lost := f.lost[c.Flow]; !lost {
		return false
	}
	switch state {
	case nl.TCP_CONNTRACK_TIME_WAIT: // the kernel itself lets a new connection begin here
		return false
	case nl.TCP_CONNTRACK_SYN_SENT, nl.TCP_CONNTRACK_CLOSE:
		return true
	case nl.TCP_CONNTRACK_ESTABLISHED:
		if kept < unacknowledged-silence {
			return true
		}
	case nl.TCP_CONNTRACK_FIN_WAIT, nl.TCP_CONNTRACK_LAST_ACK:
		since, known := f.closing[c]
		if !known {
			since = f.now
		}
		if f.now.Sub(since) >= f.Patience {
			return true
		}
		f.next[c] = since
	}
	f.lost[c.Flow] = true
	return false
}
