package rules

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node is what the rules depend on from the node they are for.
type Node struct {
	Name string
	Zone string
	// Addrs answer on node ports.
	Addrs []netip.Addr
}

// ForService computes the rules of one Service from its EndpointSlices.
func ForService(svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, node Node, cfg Config) Service {
	out := Service{Name: types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}}
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return out
	}
	out.ClusterIPs = parseAddrs(append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...))
	for _, port := range svc.Spec.Ports {
		for _, v6 := range []bool{false, true} {
			f := family{svc: svc, port: port, v6: v6, node: node, cfg: cfg}
			f.endpoints = choose(collect(endpointSlices, port, v6), node)
			out.Entries = append(out.Entries, f.entries()...)
			for _, ep := range f.endpoints.local {
				out.LocalAddrs = append(out.LocalAddrs, ep.Addr())
			}
			out.LocalCount = max(out.LocalCount, f.endpoints.readyHere)
		}
	}
	slices.SortFunc(out.Entries, func(a, b Entry) int { return compareFrontends(a.Frontend, b.Frontend) })
	out.Entries = slices.CompactFunc(out.Entries, func(a, b Entry) bool { return a.Frontend == b.Frontend })
	out.LocalAddrs = sorted(out.LocalAddrs)
	if external(svc) && localOnly(svc) {
		out.HealthCheckPort = uint16(svc.Spec.HealthCheckNodePort)
	}
	return out
}

// family is one port of a Service in one IP family.
type family struct {
	svc       *corev1.Service
	port      corev1.ServicePort
	v6        bool
	node      Node
	cfg       Config
	endpoints chosen
}

// entries lists the port's frontends: its cluster IPs, then what the outside may use.
func (f family) entries() []Entry {
	var out []Entry
	for _, addr := range f.addrs(append([]string{f.svc.Spec.ClusterIP}, f.svc.Spec.ClusterIPs...)) {
		out = append(out, f.clusterEntry(addr))
	}
	for _, addr := range f.addrs(f.svc.Spec.ExternalIPs) {
		out = append(out, f.externalEntry("ExternalIP", addr, f.port.Port))
	}
	if f.svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, ingress := range f.svc.Status.LoadBalancer.Ingress {
			if ingress.IPMode != nil && *ingress.IPMode == corev1.LoadBalancerIPModeProxy {
				continue // the load balancer must see this traffic
			}
			for _, addr := range f.addrs([]string{ingress.IP}) {
				e := f.externalEntry("LoadBalancer", addr, f.port.Port)
				e.Sources = f.sources()
				out = append(out, e)
			}
		}
	}
	if f.port.NodePort != 0 && external(f.svc) {
		for _, addr := range f.node.Addrs {
			if addr.Is6() == f.v6 {
				out = append(out, f.externalEntry("NodePort", addr, f.port.NodePort))
			}
		}
	}
	return out
}

func (f family) clusterEntry(addr netip.Addr) Entry {
	e := f.entry("ClusterIP", addr, f.port.Port)
	e.Endpoints, e.Masquerade = f.endpoints.cluster, MasqueradeOffCluster
	if f.cfg.MasqueradeAll {
		e.Masquerade = MasqueradeAlways
	}
	if p := f.svc.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		e.Endpoints = f.endpoints.local
		e.Refusal = Drop
	}
	if !f.endpoints.any() {
		e.Refusal = Reject
	}
	return e
}

func (f family) externalEntry(kind string, addr netip.Addr, port int32) Entry {
	e := f.entry(kind, addr, port)
	e.Endpoints, e.Masquerade = f.endpoints.cluster, MasqueradeAlways
	if localOnly(f.svc) && f.endpoints.any() {
		local := f.endpoints.local
		e.Local = &local
		e.Masquerade = MasqueradeOffCluster // from a pod as through the cluster IP, from the node itself rewritten
	}
	return e
}

func (f family) entry(kind string, addr netip.Addr, port int32) Entry {
	e := Entry{
		Frontend: Frontend{Addr: addr, Protocol: Protocol(strings.ToLower(string(f.port.Protocol))), Port: uint16(port)},
		Port:     f.svc.Namespace + "/" + f.svc.Name + ":" + f.port.Name,
		Kind:     kind, Refusal: Reject,
	}
	if f.svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		e.Affinity = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
		if c := f.svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			e.Affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	return e
}

// addrs parses addresses of the family, once each.
func (f family) addrs(list []string) []netip.Addr {
	return slices.DeleteFunc(parseAddrs(list), func(a netip.Addr) bool { return a.Is6() != f.v6 })
}

// sources returns the source ranges of a load balancer, without those that lie within another: kernels refuse overlaps.
func (f family) sources() []netip.Prefix {
	var out []netip.Prefix
	for _, text := range f.svc.Spec.LoadBalancerSourceRanges {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err == nil && p.Addr().Is6() == f.v6 {
			out = append(out, p.Masked())
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		if a.Bits() != b.Bits() {
			return a.Bits() - b.Bits()
		}
		return a.Addr().Compare(b.Addr())
	})
	var kept []netip.Prefix
	for _, p := range out {
		if !slices.ContainsFunc(kept, func(k netip.Prefix) bool { return k.Contains(p.Addr()) }) {
			kept = append(kept, p)
		}
	}
	return kept
}

func external(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func localOnly(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func parseAddrs(list []string) []netip.Addr {
	var out []netip.Addr
	for _, text := range list {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return sorted(out)
}

func sorted(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}
