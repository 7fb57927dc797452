// Package nftables writes service rules into the kernel. The rules have the shape that was measured to scale: one map from
// frontends to a chain per endpoint count, which picks a slot, and per slot one map from frontends to endpoints. So Services cost
// elements, not chains. Only what changes is written.
//
//	prerouting, output:  services: frontend -> outside (externalTrafficPolicy Local) -> service -> chain c3, e3, … -> slot0, slot1, … -> dnat
//	forward, output:     refused: frontends without endpoints; ports of cluster IPs that are not served
//	postrouting:         what was marked is masqueraded, so are pods that reach themselves and pods that leave the cluster
package nftables

import (
	"fmt"

	"sigs.k8s.io/knftables"
)

// Table is the name of our table in each family.
const Table = "keelson-proxy"

// The named objects of the table.
const (
	service        = "service"
	outside        = "outside"
	refused        = "refused"
	endpoints      = "slot"       // slot0, slot1, …
	localEndpoints = "local-slot" // likewise, for traffic that must stay on the node
	clusterIPs     = "cluster-ips"
	hairpin        = "hairpin"
	guarded        = "guarded"
	allowed        = "allowed"

	rejectChain = "reject-it"
)

// markBit tells postrouting to masquerade; it is the bit that kube-proxy uses, and is cleared there.
const (
	mark      = "meta mark set meta mark or 0x4000"
	masked    = "meta mark and 0x4000 == 0x4000 meta mark set meta mark xor 0x4000 masquerade fully-random"
	transport = "meta l4proto { tcp, udp, sctp }"
)

// Sizes that bound what packets can add to the kernel's sets: clients with session affinity, per endpoint.
const affinitySize = 65535

type setSpec struct {
	name, key, value string
	interval         bool
}

// sets are the named sets and maps; %s is the family's keyword.
func sets() []setSpec {
	const frontend = "%[1]s daddr . meta l4proto . th dport"
	return []setSpec{
		{name: service, key: frontend, value: "verdict"},
		{name: outside, key: frontend, value: "verdict"},
		{name: refused, key: frontend, value: "verdict"},
		{name: clusterIPs, key: "%[1]s daddr"},
		{name: hairpin, key: "%[1]s saddr . %[1]s daddr"},
		{name: guarded, key: frontend},
		{name: allowed, key: frontend + " . %[1]s saddr", interval: true},
	}
}

type chainSpec struct {
	name     string
	kind     knftables.BaseChainType
	hook     knftables.BaseChainHook
	priority knftables.BaseChainPriority
	rules    []string
}

// chains are the fixed chains, base chains with a hook and the two that they jump to.
func (c compiler) chains() []chainSpec {
	frontend := fmt.Sprintf("%s daddr . meta l4proto . th dport", c.ip())
	guard := fmt.Sprintf("%[1]s @%[2]s %[1]s . %[3]s saddr != @%[4]s drop", frontend, guarded, c.ip(), allowed)
	refuse := fmt.Sprintf("ct state new %s vmap @%s", frontend, refused)
	unserved := fmt.Sprintf("ct state new %s daddr @%s goto %s", c.ip(), clusterIPs, rejectChain)
	post := []string{masked, fmt.Sprintf("ct status dnat %[1]s saddr . %[1]s daddr @%[2]s masquerade fully-random", c.ip(), hairpin)}
	if pods := c.pods(); pods != "" && c.cfg.MasqueradeEgress {
		post = append(post, fmt.Sprintf("%[1]s saddr %[2]s %[1]s daddr != %[3]s masquerade fully-random", c.ip(), pods, c.pods(c.multicast())))
	}
	const before, after = "-110", "-90" // around the rewriting of destinations
	return []chainSpec{
		{name: rejectChain, rules: []string{"meta l4proto tcp reject with tcp reset", "reject"}}, // kernels limit the rate of ICMP
		{name: "services", rules: []string{
			fmt.Sprintf("%s vmap @%s", frontend, outside),
			fmt.Sprintf("%s vmap @%s", frontend, service),
		}},
		{"guard", knftables.FilterType, knftables.PreroutingHook, before, []string{guard}},
		{"nat-prerouting", knftables.NATType, knftables.PreroutingHook, knftables.DNATPriority, []string{"jump services"}},
		{"nat-output", knftables.NATType, knftables.OutputHook, "-100", []string{"jump services"}},
		{"nat-postrouting", knftables.NATType, knftables.PostroutingHook, knftables.SNATPriority, post},
		{"filter-input", knftables.FilterType, knftables.InputHook, before, []string{refuse}},
		{"filter-forward", knftables.FilterType, knftables.ForwardHook, before, []string{refuse, unserved, "ct state invalid drop"}},
		{"filter-output", knftables.FilterType, knftables.OutputHook, before, []string{guard, refuse}},
		{"filter-output-late", knftables.FilterType, knftables.OutputHook, after, []string{unserved}},
	}
}

func (c compiler) multicast() string {
	if c.v6 {
		return "ff00::/8"
	}
	return "224.0.0.0/4"
}

// base makes the fixed sets and chains.
func (c compiler) base(tx *knftables.Transaction) {
	for _, s := range sets() {
		key := fmt.Sprintf(s.key, c.ip())
		var flags []knftables.SetFlag
		if s.interval {
			flags = append(flags, knftables.IntervalFlag)
		}
		switch s.value {
		case "":
			tx.Add(&knftables.Set{Name: s.name, TypeOf: key, Flags: flags})
		default:
			tx.Add(&knftables.Map{Name: s.name, TypeOf: key + " : " + s.value})
		}
	}
	for _, chain := range c.chains() {
		k := &knftables.Chain{Name: chain.name}
		if chain.hook != "" {
			k.Type, k.Hook, k.Priority = &chain.kind, &chain.hook, &chain.priority
		}
		tx.Add(k)
	}
	for _, chain := range c.chains() {
		for _, rule := range chain.rules {
			tx.Add(&knftables.Rule{Chain: chain.name, Rule: rule})
		}
	}
}
