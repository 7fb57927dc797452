// Package policy says which packets a node's pods may send and receive, as a value: NetworkPolicies, pods and namespaces go in,
// sorted rules come out. Like package rules it does no I/O; package nftables enforces the value.
package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Direction is the direction of traffic as the pod sees it.
type Direction string

// The directions.
const (
	Ingress Direction = "ingress"
	Egress  Direction = "egress"
)

// Rules are the network policies as one node enforces them.
type Rules struct {
	// Known are the addresses of this node's pods. While any policy exists, a pod address that is not known yet may neither send
	// nor receive, so that no pod talks before its policies are in force.
	Known []netip.Addr
	// Pods are the isolated pods of this node.
	Pods []Pod
}

// Pod is an isolated pod: in this direction only what one of the rules allows passes.
type Pod struct {
	Addr      netip.Addr
	Direction Direction
	Rules     []Allow
}

// Allow lets traffic pass. All lists are sorted.
type Allow struct {
	// Name is "namespace/policy direction index", for readers and for the names of the kernel's sets.
	Name string
	// AnyPeer allows every other side; else it must be in Peers, which do not overlap.
	AnyPeer bool
	Peers   []netip.Prefix
	// AnyPort allows every protocol and port; else one of Ports or Targets must match.
	AnyPort bool
	Ports   []Ports
	// Targets are what named ports stand for: a number that differs from pod to pod.
	Targets []Target
}

// Ports is a range of ports; 0 to 65535 is every port of the protocol.
type Ports struct {
	Protocol corev1.Protocol
	From, To uint16
}

// Target is one port of one pod.
type Target struct {
	Addr     netip.Addr
	Protocol corev1.Protocol
	Port     uint16
}

// Build computes the rules of a node. Only pods with an address count; those of the host network have the node's, which policies
// do not cover.
func Build(policies []*networkingv1.NetworkPolicy, pods []*corev1.Pod, namespaces []*corev1.Namespace, node string) Rules {
	if len(policies) == 0 {
		return Rules{}
	}
	b := builder{namespaces: map[string]labels.Set{}}
	for _, ns := range namespaces {
		b.namespaces[ns.Name] = ns.Labels
	}
	for _, pod := range pods {
		if !pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && len(addrs(pod)) > 0 {
			b.pods = append(b.pods, pod)
		}
	}
	slices.SortFunc(policies, func(x, y *networkingv1.NetworkPolicy) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	for _, p := range policies {
		b.add(p)
	}
	var out Rules
	for _, pod := range b.pods {
		if pod.Spec.NodeName != node {
			continue
		}
		out.Known = append(out.Known, addrs(pod)...)
		for _, d := range []Direction{Ingress, Egress} {
			allow, isolated := b.rulesFor(pod, d)
			if !isolated {
				continue
			}
			for _, a := range addrs(pod) {
				out.Pods = append(out.Pods, Pod{Addr: a, Direction: d, Rules: allow})
			}
		}
	}
	slices.SortFunc(out.Known, netip.Addr.Compare)
	slices.SortFunc(out.Pods, func(x, y Pod) int {
		return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Direction, y.Direction))
	})
	return out
}

func addrs(pod *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// builder resolves policies once and applies them to each pod.
type builder struct {
	namespaces map[string]labels.Set
	pods       []*corev1.Pod
	policies   []resolved
}

// resolved is a policy in one direction.
type resolved struct {
	namespace string
	direction Direction
	selector  labels.Selector
	rules     []Allow
	// named are the ingress rules' named ports, which each selected pod resolves for itself.
	named []([]networkingv1.NetworkPolicyPort)
}

func (b *builder) add(p *networkingv1.NetworkPolicy) {
	selector := selectorOf(&p.Spec.PodSelector)
	for _, t := range p.Spec.PolicyTypes {
		r := resolved{namespace: p.Namespace, selector: selector}
		name := func(i int) string { return fmt.Sprintf("%s/%s %s %d", p.Namespace, p.Name, r.direction, i) }
		switch t {
		case networkingv1.PolicyTypeIngress:
			r.direction = Ingress
			for i, rule := range p.Spec.Ingress {
				allow, named := b.allow(name(i), p.Namespace, rule.From, rule.Ports)
				r.rules, r.named = append(r.rules, allow), append(r.named, named)
			}
		case networkingv1.PolicyTypeEgress:
			r.direction = Egress
			for i, rule := range p.Spec.Egress {
				allow, named := b.allow(name(i), p.Namespace, rule.To, rule.Ports)
				allow.Targets = b.targets(allow, named)
				r.rules, r.named = append(r.rules, allow), append(r.named, nil)
			}
		}
		b.policies = append(b.policies, r)
	}
}

// selectorOf parses a selector; one that does not parse selects nothing, which isolates nobody and allows nobody.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return out
}

func (b *builder) rulesFor(pod *corev1.Pod, d Direction) (out []Allow, isolated bool) {
	for _, p := range b.policies {
		if p.direction != d || p.namespace != pod.Namespace || !p.selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		isolated = true
		for i, allow := range p.rules {
			if len(p.named[i]) > 0 {
				allow.Targets = targetsOf(pod, p.named[i])
				allow.Name += " " + pod.Namespace + "/" + pod.Name // its targets are its own
			}
			out = append(out, allow)
		}
	}
	return out, isolated
}

// allow resolves one rule; named ports are returned as they are.
func (b *builder) allow(name, namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (Allow, []networkingv1.NetworkPolicyPort) {
	out := Allow{Name: name, AnyPeer: len(peers) == 0, AnyPort: len(ports) == 0}
	for _, peer := range peers {
		if peer.IPBlock != nil {
			out.Peers = append(out.Peers, block(peer.IPBlock)...)
			continue
		}
		for _, pod := range b.selected(namespace, peer) {
			for _, a := range addrs(pod) {
				out.Peers = append(out.Peers, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	out.Peers = disjoint(out.Peers)
	var named []networkingv1.NetworkPolicyPort
	for _, p := range ports {
		protocol := protocolOf(p)
		switch {
		case p.Port == nil:
			out.Ports = append(out.Ports, Ports{protocol, 0, 65535})
		case p.Port.Type == intstr.String:
			named = append(named, p)
		case p.EndPort != nil:
			out.Ports = append(out.Ports, Ports{protocol, uint16(p.Port.IntVal), uint16(*p.EndPort)})
		default:
			out.Ports = append(out.Ports, Ports{protocol, uint16(p.Port.IntVal), uint16(p.Port.IntVal)})
		}
	}
	slices.SortFunc(out.Ports, func(x, y Ports) int {
		return cmp.Or(cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(x.From, y.From), cmp.Compare(x.To, y.To))
	})
	return out, named
}

func protocolOf(p networkingv1.NetworkPolicyPort) corev1.Protocol {
	if p.Protocol == nil {
		return corev1.ProtocolTCP
	}
	return *p.Protocol
}

// selected are the pods that a peer's selectors mean.
func (b *builder) selected(namespace string, peer networkingv1.NetworkPolicyPeer) []*corev1.Pod {
	inNamespace := func(name string) bool { return name == namespace }
	if peer.NamespaceSelector != nil {
		selector := selectorOf(peer.NamespaceSelector)
		inNamespace = func(name string) bool { return selector.Matches(b.namespaces[name]) }
	}
	podSelector := labels.Everything()
	if peer.PodSelector != nil {
		podSelector = selectorOf(peer.PodSelector)
	}
	var out []*corev1.Pod
	for _, pod := range b.pods {
		if inNamespace(pod.Namespace) && podSelector.Matches(labels.Set(pod.Labels)) {
			out = append(out, pod)
		}
	}
	return out
}

// targets resolves the named ports of an egress rule on the pods that it allows.
func (b *builder) targets(allow Allow, named []networkingv1.NetworkPolicyPort) []Target {
	if len(named) == 0 {
		return nil
	}
	var out []Target
	for _, pod := range b.pods {
		for _, t := range targetsOf(pod, named) {
			if allow.AnyPeer || slices.ContainsFunc(allow.Peers, func(p netip.Prefix) bool { return p.Contains(t.Addr) }) {
				out = append(out, t)
			}
		}
	}
	return sortTargets(out)
}

// targetsOf resolves named ports on one pod.
func targetsOf(pod *corev1.Pod, named []networkingv1.NetworkPolicyPort) []Target {
	var out []Target
	for _, p := range named {
		for _, c := range pod.Spec.Containers {
			for _, port := range c.Ports {
				if port.Name != p.Port.StrVal || cmp.Or(port.Protocol, corev1.ProtocolTCP) != protocolOf(p) {
					continue
				}
				for _, a := range addrs(pod) {
					out = append(out, Target{a, protocolOf(p), uint16(port.ContainerPort)})
				}
			}
		}
	}
	return sortTargets(out)
}

func sortTargets(list []Target) []Target {
	slices.SortFunc(list, func(x, y Target) int {
		return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(x.Port, y.Port))
	})
	return slices.Compact(list)
}

// String prints one line per isolated pod and rule.
func (r Rules) String() string {
	var b strings.Builder
	for _, p := range r.Pods {
		fmt.Fprintf(&b, "%s %s\n", p.Addr, p.Direction)
		for _, a := range p.Rules {
			fmt.Fprintf(&b, "  %s: peers %v (any %v), ports %v %v (any %v)\n", a.Name, a.Peers, a.AnyPeer, a.Ports, a.Targets, a.AnyPort)
		}
	}
	return b.String()
}
