package rules

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpoint is one address of a Service port with what decides whether it is used.
type endpoint struct {
	addr                        netip.AddrPort
	node                        string
	ready, serving, terminating bool
	forZones, forNodes          []string
}

// chosen are the endpoints to use: for traffic that may go anywhere, and for traffic that must stay on the node.
type chosen struct {
	cluster, local Endpoints
	exists         bool
	readyHere      int // of local, those that do not terminate
}

func (c chosen) any() bool { return c.exists }

// collect lists a port's endpoints in one IP family, once each.
func collect(slicesOf []*discoveryv1.EndpointSlice, port corev1.ServicePort, v6 bool) []endpoint {
	want := discoveryv1.AddressTypeIPv4
	if v6 {
		want = discoveryv1.AddressTypeIPv6
	}
	var out []endpoint
	for _, slice := range slicesOf {
		number, ok := portNumber(slice, port)
		if slice.AddressType != want || !ok {
			continue
		}
		for i := range slice.Endpoints {
			if e, ok := newEndpoint(&slice.Endpoints[i], number); ok {
				out = append(out, e)
			}
		}
	}
	// An endpoint that moves between slices may stand in two for a moment; ready wins.
	slices.SortFunc(out, func(a, b endpoint) int {
		if c := a.addr.Compare(b.addr); c != 0 {
			return c
		}
		if a.ready == b.ready {
			return 0
		}
		if a.ready {
			return -1
		}
		return 1
	})
	return slices.CompactFunc(out, func(a, b endpoint) bool { return a.addr == b.addr })
}

func portNumber(slice *discoveryv1.EndpointSlice, port corev1.ServicePort) (uint16, bool) {
	for _, p := range slice.Ports {
		name, protocol := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if p.Port != nil && name == port.Name && protocol == port.Protocol {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func newEndpoint(e *discoveryv1.Endpoint, port uint16) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	addr, err := netip.ParseAddr(e.Addresses[0]) // the others are the same endpoint, and consumers use the first
	if err != nil {
		return endpoint{}, false
	}
	out := endpoint{
		addr:        netip.AddrPortFrom(addr, port),
		ready:       e.Conditions.Ready == nil || *e.Conditions.Ready,
		terminating: e.Conditions.Terminating != nil && *e.Conditions.Terminating,
	}
	out.serving = out.ready
	if e.Conditions.Serving != nil {
		out.serving = *e.Conditions.Serving
	}
	if e.NodeName != nil {
		out.node = *e.NodeName
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			out.forZones = append(out.forZones, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			out.forNodes = append(out.forNodes, n.Name)
		}
	}
	return out, true
}

// choose picks the endpoints to use. Ready ones come first; if there are none, those that still serve while they terminate.
func choose(all []endpoint, node Node) chosen {
	here := func(e endpoint) bool { return e.node == node.Name }
	ready := filter(all, func(e endpoint) bool { return e.ready })
	draining := filter(all, func(e endpoint) bool { return e.serving && e.terminating })

	usable := ready
	if len(usable) == 0 {
		usable = draining
	}
	local := filter(ready, here)
	readyHere := len(local)
	if readyHere == 0 {
		local = filter(draining, here)
	}
	return chosen{
		cluster:   addrsOf(near(usable, node)),
		local:     addrsOf(local),
		exists:    len(usable) > 0 || len(local) > 0,
		readyHere: readyHere,
	}
}

// near applies topology hints: only if every endpoint has them, and one is meant for this node or zone.
func near(all []endpoint, node Node) []endpoint {
	if mine := hinted(all, node.Name, func(e endpoint) []string { return e.forNodes }); mine != nil {
		return mine
	}
	if mine := hinted(all, node.Zone, func(e endpoint) []string { return e.forZones }); mine != nil {
		return mine
	}
	return all
}

func hinted(all []endpoint, name string, hints func(endpoint) []string) []endpoint {
	if name == "" || slices.ContainsFunc(all, func(e endpoint) bool { return len(hints(e)) == 0 }) {
		return nil
	}
	return filter(all, func(e endpoint) bool { return slices.Contains(hints(e), name) })
}

func filter(all []endpoint, keep func(endpoint) bool) []endpoint {
	var out []endpoint
	for _, e := range all {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}

func addrsOf(all []endpoint) Endpoints {
	var out Endpoints
	for _, e := range all {
		out = append(out, e.addr)
	}
	return out
}
