// Package rules says what a node must do with packets for Services, as a value: API objects go in, sorted and printable rules
// come out. It does no I/O; package nftables writes the value into the kernel, and Trace answers what it does with a packet.
package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Protocol is a transport protocol as nftables spells it.
type Protocol string

// The protocols of Services.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// Frontend is what a client connects to.
type Frontend struct {
	Addr     netip.Addr
	Protocol Protocol
	Port     uint16
}

// String returns "tcp 10.96.0.1:443".
func (f Frontend) String() string {
	return fmt.Sprintf("%s %s", f.Protocol, netip.AddrPortFrom(f.Addr, f.Port))
}

func compareFrontends(a, b Frontend) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

// Masquerade says whose source address is rewritten to the node's.
type Masquerade string

const (
	// MasqueradeOffCluster rewrites the source of clients that are not pods.
	MasqueradeOffCluster Masquerade = "off-cluster"
	// MasqueradeAlways rewrites every source.
	MasqueradeAlways Masquerade = "always"
)

// Refusal is what happens to a packet for which there is no endpoint.
type Refusal string

const (
	// Reject answers at once that nobody listens.
	Reject Refusal = "reject"
	// Drop lets the client wait: another node may have an endpoint.
	Drop Refusal = "drop"
)

// Endpoints is a sorted list of addresses to choose from, each equally likely.
type Endpoints []netip.AddrPort

// Entry is one frontend of a Service port.
type Entry struct {
	Frontend
	// Port is the "namespace/service:port" that the entry belongs to; entries of one port share its affinity.
	Port string
	// Kind is for readers: ClusterIP, NodePort, ExternalIP or LoadBalancer.
	Kind string
	// Endpoints take the connections; if empty, Refusal says what happens.
	Endpoints  Endpoints
	Refusal    Refusal
	Masquerade Masquerade
	// Local is set for the external addresses of a Service whose externalTrafficPolicy is Local: traffic from outside goes to
	// these endpoints of this node, unmasqueraded, or is dropped. Traffic from pods and from the node itself uses Endpoints.
	Local *Endpoints
	// Affinity keeps a client on its endpoint until it has been quiet for so long. 0 means none.
	Affinity time.Duration
	// Sources, if not empty, are the only clients that are let in.
	Sources []netip.Prefix
}

// Service is everything that a node does for one Service.
type Service struct {
	Name types.NamespacedName
	// Entries are sorted by frontend.
	Entries []Entry
	// ClusterIPs are rejected on ports that are not served.
	ClusterIPs []netip.Addr
	// LocalAddrs are the endpoints on this node: one that reaches itself through the Service must be masqueraded.
	LocalAddrs []netip.Addr
	// HealthCheckPort, if not 0, answers whether this node has ready endpoints, for outside load balancers; LocalCount is how many. Endpoints that
	// serve while they terminate get what comes still, and are not to get more (KEP-1669).
	HealthCheckPort uint16
	LocalCount      int
}

// Config is what holds for all Services of a node.
type Config struct {
	// ClusterCIDRs are the addresses of pods. Without any, no source counts as a pod, and no cluster traffic is masqueraded.
	ClusterCIDRs []netip.Prefix
	// MasqueradeEgress rewrites the source of pods' traffic to destinations outside ClusterCIDRs.
	MasqueradeEgress bool
	// MasqueradeAll rewrites the source of all service traffic.
	MasqueradeAll bool
}

// Rules is the whole rule set of a node.
type Rules struct {
	Config
	Services map[types.NamespacedName]Service
}

// Entries returns all entries, sorted by frontend and then by Service, so that of two Services that claim one frontend always
// the same one wins.
func (r Rules) Entries() []Entry {
	var out []Entry
	for _, s := range r.Services {
		out = append(out, s.Entries...)
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(compareFrontends(a.Frontend, b.Frontend), cmp.Compare(a.Port, b.Port))
	})
	return out
}

// String prints one line per frontend.
func (r Rules) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pods %v, masquerade egress %v, masquerade all %v\n", r.ClusterCIDRs, r.MasqueradeEgress, r.MasqueradeAll)
	for _, e := range r.Entries() {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}

// String prints the entry on one line.
func (e Entry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s (%s) ->", e.Kind, e.Frontend, e.Port)
	if len(e.Endpoints) == 0 {
		fmt.Fprintf(&b, " %s", e.Refusal)
	}
	for _, ep := range e.Endpoints {
		fmt.Fprintf(&b, " %s", ep)
	}
	if e.Local != nil {
		fmt.Fprintf(&b, ", from outside %v", *e.Local)
	}
	fmt.Fprintf(&b, ", masquerade %s", e.Masquerade)
	if e.Affinity > 0 {
		fmt.Fprintf(&b, ", affinity %s", e.Affinity)
	}
	if len(e.Sources) > 0 {
		fmt.Fprintf(&b, ", sources %v", e.Sources)
	}
	return b.String()
}
