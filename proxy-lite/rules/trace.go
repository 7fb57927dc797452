package rules

import (
	"net/netip"
	"slices"
)

// Packet is the first packet of a connection.
type Packet struct {
	Src netip.Addr
	Dst Frontend
	// FromNode says that a process of the node itself (or of its host network) sends it.
	FromNode bool
}

// Action is what becomes of a packet.
type Action string

// The actions. Forwarded means that the destination is one of Outcome.To; Passed means that no Service is concerned.
const (
	Forwarded Action = "forward"
	Rejected  Action = "reject"
	Dropped   Action = "drop"
	Passed    Action = "pass"
)

// Outcome is the answer to "where does this packet go?".
type Outcome struct {
	Action Action
	// To are the possible destinations.
	To Endpoints
	// Masqueraded lists those of To which see the node's address as the source.
	Masqueraded Endpoints
	// Why is the "namespace/service:port" that decided.
	Why string
}

// Trace follows a packet through the rules.
func (r Rules) Trace(p Packet) Outcome {
	entries := r.Entries()
	i, found := slices.BinarySearchFunc(entries, p.Dst, func(e Entry, f Frontend) int { return compareFrontends(e.Frontend, f) })
	if !found {
		return r.unserved(p)
	}
	e := entries[i]
	if len(e.Sources) > 0 && !contains(e.Sources, p.Src) {
		return Outcome{Action: Dropped, Why: e.Port}
	}
	if e.Local != nil && !p.FromNode && !contains(r.ClusterCIDRs, p.Src) {
		if len(*e.Local) == 0 {
			return Outcome{Action: Dropped, Why: e.Port}
		}
		return r.forward(p, e, *e.Local, false)
	}
	if len(e.Endpoints) == 0 {
		if e.Refusal == Drop {
			return Outcome{Action: Dropped, Why: e.Port}
		}
		return Outcome{Action: Rejected, Why: e.Port}
	}
	masquerade := e.Masquerade == MasqueradeAlways || (e.Local != nil && p.FromNode) ||
		(len(r.ClusterCIDRs) > 0 && !contains(r.ClusterCIDRs, p.Src))
	return r.forward(p, e, e.Endpoints, masquerade)
}

// forward says which of the endpoints see the node's address: all, or those that the packet comes from itself.
func (r Rules) forward(p Packet, e Entry, to Endpoints, masquerade bool) Outcome {
	out := Outcome{Action: Forwarded, To: to, Why: e.Port}
	for _, ep := range to {
		if masquerade || ep.Addr() == p.Src {
			out.Masqueraded = append(out.Masqueraded, ep)
		}
	}
	return out
}

func (r Rules) unserved(p Packet) Outcome {
	for name, s := range r.Services {
		if slices.Contains(s.ClusterIPs, p.Dst.Addr) {
			return Outcome{Action: Rejected, Why: name.String()}
		}
	}
	return Outcome{Action: Passed}
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
