package nftables

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"

	"keelson.dev/proxy-lite/policy"
	"keelson.dev/proxy-lite/rules"
)

// PolicyTable is the name of the table that enforces network policies.
const PolicyTable = "keelson-policy"

// The named objects of the policy table: isolated pods, and pods whose policies are in force.
const (
	isolated = "isolated-" // isolated-ingress, isolated-egress
	known    = "known"
)

// PolicyWriter keeps one IP family of the kernel equal to the network policies. It is not safe for concurrent use.
//
// Traffic between pods passes the forward hook twice: once for the sender's egress rules and once, a step later, for the
// receiver's ingress rules. Accepting in the first lets the second decide. What a pod sends to its own node passes the input hook,
// where only egress rules apply; what the node itself sends to its pods (probes) is always let through.
type PolicyWriter struct {
	store
	compiler
	local []netip.Prefix // the node's pod CIDRs
	on    bool           // whether the table is there
}

// NewPolicy returns a writer for the pods within the node's pod CIDRs.
func NewPolicy(v6 bool, local []netip.Prefix) (*PolicyWriter, error) {
	nft, err := open(v6, PolicyTable)
	if err != nil {
		return nil, err
	}
	w := &PolicyWriter{store: newStore(nft), compiler: compiler{v6: v6}}
	w.direct = newDirect(v6, PolicyTable)
	for _, p := range local {
		if p.Addr().Is6() == v6 {
			w.local = append(w.local, p)
		}
	}
	w.store.base = w.base
	return w, nil
}

// Update enforces the rules. Without any known pod and policy the table is removed, so that a cluster without policies pays
// nothing.
func (w *PolicyWriter) Update(ctx context.Context, r policy.Rules) error {
	if len(r.Known)+len(r.Pods) == 0 {
		return w.remove(ctx)
	}
	w.on = true
	return w.update(ctx, map[types.NamespacedName]objects{{Name: "policies"}: w.policies(r)})
}

// remove deletes the table, also one that an earlier process has left.
func (w *PolicyWriter) remove(ctx context.Context) error {
	if !w.on && !w.stale {
		return nil
	}
	tx := w.nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	if err := w.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("remove network policies: %w", err)
	}
	w.owners = map[types.NamespacedName]objects{}
	w.forget()
	w.on, w.stale = false, true
	return nil
}

func (w *PolicyWriter) base(tx *knftables.Transaction) {
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		tx.Add(&knftables.Map{Name: isolated + string(d), Type: w.addrType() + " : verdict"})
	}
	tx.Add(&knftables.Set{Name: known, Type: w.addrType()})
	const established = "ct state established,related accept"
	egress := []string{established, fmt.Sprintf("%s saddr vmap @%s%s", w.ip(), isolated, policy.Egress)}
	ingress := []string{established, fmt.Sprintf("%s daddr vmap @%s%s", w.ip(), isolated, policy.Ingress)}
	if len(w.local) > 0 {
		list := make([]string, len(w.local))
		for i, p := range w.local {
			list[i] = p.String()
		}
		pods := "{ " + strings.Join(list, ", ") + " }"
		egress = slices.Insert(egress, 1, fmt.Sprintf("%[1]s saddr %[2]s %[1]s saddr != @%[3]s drop", w.ip(), pods, known))
		ingress = slices.Insert(ingress, 1, fmt.Sprintf("%[1]s daddr %[2]s %[1]s daddr != @%[3]s drop", w.ip(), pods, known))
	}
	always := []string{`iifname "lo" accept`}
	if w.v6 { // without its neighbours a pod reaches nobody
		always = append(always, "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept")
	}
	filter := knftables.FilterType
	for _, c := range []struct {
		name     string
		hook     knftables.BaseChainHook
		priority knftables.BaseChainPriority
		rules    []string
	}{
		{"forward-egress", knftables.ForwardHook, "-1", egress},
		{"forward-ingress", knftables.ForwardHook, "1", ingress},
		{"input-egress", knftables.InputHook, "-1", append(always, egress...)},
	} {
		tx.Add(&knftables.Chain{Name: c.name, Type: &filter, Hook: &c.hook, Priority: &c.priority})
		addRules(tx, c.name, c.rules)
	}
}

// policies compiles the rules: a set of peers and a set of targets per rule, and per distinct list of rules one chain that ends
// with drop.
func (w *PolicyWriter) policies(r policy.Rules) objects {
	o := objects{elements: map[element]string{}, chains: map[string][]string{}, sets: map[string]*knftables.Set{}}
	for _, a := range r.Known {
		if a.Is6() == w.v6 {
			o.elements[element{known, a.String()}] = ""
		}
	}
	for _, pod := range r.Pods {
		if pod.Addr.Is6() != w.v6 {
			continue
		}
		var chain []string
		for _, a := range pod.Rules {
			chain = append(chain, w.allow(o, pod.Direction, a)...)
		}
		chain = append(chain, "drop")
		name := string(pod.Direction) + "-" + hash(chain...)
		o.chains[name] = chain
		o.elements[element{isolated + string(pod.Direction), pod.Addr.String()}] = "goto " + name
	}
	return o
}

// allow returns the nftables rules of one Allow.
func (w *PolicyWriter) allow(o objects, d policy.Direction, a policy.Allow) []string {
	side := "saddr"
	if d == policy.Egress {
		side = "daddr"
	}
	peer := ""
	if !a.AnyPeer {
		name := "peers-" + hash(a.Name)
		o.sets[name] = &knftables.Set{Name: name, Type: w.addrType(), Flags: []knftables.SetFlag{knftables.IntervalFlag}}
		for _, p := range a.Peers {
			if p.Addr().Is6() == w.v6 {
				o.elements[element{name, p.String()}] = ""
			}
		}
		peer = fmt.Sprintf("%s %s @%s ", w.ip(), side, name)
	}
	if a.AnyPort {
		return []string{peer + "accept"}
	}
	var out []string
	for _, p := range a.Ports {
		out = append(out, peer+ports(p)+" accept")
	}
	if len(a.Targets) > 0 {
		name := "targets-" + hash(a.Name)
		o.sets[name] = &knftables.Set{Name: name, Type: w.addrType() + " . inet_proto . inet_service"}
		for _, t := range a.Targets {
			if t.Addr.Is6() == w.v6 {
				o.elements[element{name, fmt.Sprintf("%s . %s . %d", t.Addr, transportOf(t.Protocol), t.Port)}] = ""
			}
		}
		out = append(out, fmt.Sprintf("%s%s daddr . meta l4proto . th dport @%s accept", peer, w.ip(), name))
	}
	return out
}

func ports(p policy.Ports) string {
	protocol := transportOf(p.Protocol)
	switch {
	case p.From == 0 && p.To == 65535:
		return "meta l4proto " + protocol
	case p.From == p.To:
		return fmt.Sprintf("%s dport %d", protocol, p.From)
	default:
		return fmt.Sprintf("%s dport %d-%d", protocol, p.From, p.To)
	}
}

func transportOf(p corev1.Protocol) string { return string(rules.Protocol(strings.ToLower(string(p)))) }
