package nftables

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/knftables"

	"keelson.dev/proxy-lite/rules"
)

// element is one element of a set or map.
type element struct{ set, key string }

// objects is what one owner (a Service, or the network policies) needs in the kernel.
type objects struct {
	elements map[element]string  // value; empty in sets
	chains   map[string][]string // rules
	sets     map[string]*knftables.Set
	// shared are the chains for n endpoints, which all Services use.
	shared map[string]sharedChain
}

// A class of frontend decides who is masqueraded; its first letter names the chains.
type class string

const (
	clusterClass  class = "c" // sources that are not pods
	externalClass class = "e" // every source
	insideClass   class = "x" // an external address used from inside: the node itself and what is no pod
	localClass    class = "l" // from outside to this node's endpoints: nobody
)

type sharedChain struct {
	class class
	n     int
}

func (s sharedChain) name() string { return fmt.Sprintf("%s%d", s.class, s.n) }

// slots names the maps that the chain's endpoints are in.
func (s sharedChain) slots() string {
	if s.class == localClass {
		return localEndpoints
	}
	return endpoints
}

func slot(of string, i int) string { return fmt.Sprintf("%s%d", of, i) }

// compiler turns Services of one IP family into objects.
type compiler struct {
	v6  bool
	cfg rules.Config
}

func (c compiler) ip() string {
	if c.v6 {
		return "ip6"
	}
	return "ip"
}

// service compiles one Service.
func (c compiler) service(s rules.Service) objects {
	o := objects{
		elements: map[element]string{}, chains: map[string][]string{}, sets: map[string]*knftables.Set{},
		shared: map[string]sharedChain{},
	}
	for _, e := range s.Entries {
		if e.Addr.Is6() == c.v6 {
			c.entry(o, e)
		}
	}
	for _, addr := range s.ClusterIPs {
		if addr.Is6() == c.v6 {
			o.elements[element{clusterIPs, addr.String()}] = ""
		}
	}
	for _, addr := range s.LocalAddrs {
		if addr.Is6() == c.v6 {
			o.elements[element{hairpin, addr.String() + " . " + addr.String()}] = ""
		}
	}
	return o
}

func (c compiler) entry(o objects, e rules.Entry) {
	key := fmt.Sprintf("%s . %s . %d", e.Addr, e.Protocol, e.Frontend.Port)
	if len(e.Sources) > 0 {
		o.elements[element{guarded, key}] = ""
		for _, p := range e.Sources {
			o.elements[element{allowed, key + " . " + p.String()}] = ""
		}
	}
	kind := clusterClass
	switch {
	case e.Local != nil:
		kind = insideClass
	case e.Masquerade == rules.MasqueradeAlways:
		kind = externalClass
	}
	switch {
	case len(e.Endpoints) > 0:
		o.elements[element{service, key}] = "goto " + c.pool(o, kind, endpoints, key, e, e.Endpoints)
	case e.Refusal == rules.Drop:
		o.elements[element{refused, key}] = "drop"
	default:
		o.elements[element{refused, key}] = "goto " + rejectChain
	}
	if e.Local != nil {
		o.elements[element{outside, key}] = "jump " + c.pool(o, localClass, localEndpoints, key, e, *e.Local)
	}
}

// pool makes what chooses among the endpoints and returns the chain to go to.
func (c compiler) pool(o objects, kind class, into, key string, e rules.Entry, eps rules.Endpoints) string {
	if e.Affinity > 0 && len(eps) > 0 {
		return c.stickyPool(o, kind, e, eps)
	}
	shared := sharedChain{kind, len(eps)}
	o.shared[shared.name()] = shared
	for i, ep := range eps {
		o.elements[element{slot(into, i), key}] = fmt.Sprintf("%s . %d", ep.Addr(), ep.Port())
	}
	return shared.name()
}

// stickyPool makes chains of its own: a client that is in an endpoint's set goes there, others anywhere.
func (c compiler) stickyPool(o objects, kind class, e rules.Entry, eps rules.Endpoints) string {
	var choose, vmap []string
	for i, ep := range eps {
		id := hash(e.Port, ep.String(), e.Affinity.String())
		o.sets["s-"+id] = c.clients("s-"+id, e.Affinity)
		o.chains["p-"+id] = []string{
			fmt.Sprintf("update @s-%s { %s saddr }", id, c.ip()),
			fmt.Sprintf("%s dnat to %s", transport, ep),
		}
		choose = append(choose, fmt.Sprintf("%s saddr @s-%s goto p-%s", c.ip(), id, id))
		vmap = append(vmap, fmt.Sprintf("%d : goto p-%s", i, id))
	}
	choose = append(choose, fmt.Sprintf("numgen random mod %d vmap { %s }", len(eps), strings.Join(vmap, ", ")))
	name := "a-" + string(kind) + hash(append([]string{e.Port}, vmap...)...)
	o.chains[name] = append(c.prologue(kind), choose...)
	return name
}

// clients is the set of the clients of one endpoint, which packets fill.
func (c compiler) clients(name string, timeout time.Duration) *knftables.Set {
	size := uint64(affinitySize)
	return &knftables.Set{
		Name: name, Type: c.addrType(), Timeout: &timeout, Size: &size,
		Flags: []knftables.SetFlag{knftables.DynamicFlag, knftables.TimeoutFlag},
	}
}

func (c compiler) addrType() string {
	if c.v6 {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

// sharedRules are the rules of a chain that chooses among n endpoints of whichever frontend the packet is for.
func (c compiler) sharedRules(s sharedChain) []string {
	out := c.prologue(s.class)
	if s.n == 0 {
		return append(out, "drop")
	}
	if s.n == 1 {
		return append(out, "goto "+slot(s.slots(), 0))
	}
	choices := make([]string, s.n)
	for i := range s.n {
		choices[i] = fmt.Sprintf("%d : goto %s", i, slot(s.slots(), i))
	}
	return append(out, fmt.Sprintf("numgen random mod %d vmap { %s }", s.n, strings.Join(choices, ", ")))
}

// slotRules are the rules of a chain that sends packets to the endpoint in one slot. The chain and its map have the same name.
func (c compiler) slotRules(name string) []string {
	return []string{fmt.Sprintf("%s dnat to %s daddr . meta l4proto . th dport map @%s", transport, c.ip(), name)}
}

// prologue does what a class of frontends asks for before an endpoint is chosen.
func (c compiler) prologue(kind class) []string {
	pods := c.pods()
	notPod := fmt.Sprintf("%s saddr != %s %s", c.ip(), pods, mark)
	fromNode := "fib saddr type local "
	var out []string
	switch kind {
	case externalClass:
		out = append(out, mark)
	case clusterClass:
		if pods != "" {
			out = append(out, notPod)
		}
	case insideClass:
		out = append(out, fromNode+mark)
		if pods != "" {
			out = append(out, notPod)
		}
	case localClass:
		out = append(out, fromNode+"return")
		if pods != "" {
			out = append(out, fmt.Sprintf("%s saddr %s return", c.ip(), pods))
		}
	}
	return out
}

// pods is the anonymous set of the family's pod addresses, or "".
func (c compiler) pods(more ...string) string {
	var list []string
	for _, p := range c.cfg.ClusterCIDRs {
		if p.Addr().Is6() == c.v6 {
			list = append(list, p.String())
		}
	}
	if len(list) == 0 {
		return ""
	}
	return "{ " + strings.Join(append(list, more...), ", ") + " }"
}

// hash makes a short name that is the same for the same parts.
func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "|")))
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:10]))
}
