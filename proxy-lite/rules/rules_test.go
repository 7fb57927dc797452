package rules

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

type ep struct {
	addr, node                  string
	ready, serving, terminating bool
	zone                        string
	forNode                     string
}

func live(addr, node string) ep { return ep{addr: addr, node: node, ready: true, serving: true} }

func slice(eps ...ep) []*discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("web"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))}},
	}
	for _, e := range eps {
		out := discoveryv1.Endpoint{
			Addresses: []string{e.addr}, NodeName: &e.node,
			Conditions: discoveryv1.EndpointConditions{Ready: &e.ready, Serving: &e.serving, Terminating: &e.terminating},
		}
		if e.zone != "" || e.forNode != "" {
			out.Hints = &discoveryv1.EndpointHints{}
			if e.zone != "" {
				out.Hints.ForZones = []discoveryv1.ForZone{{Name: e.zone}}
			}
			if e.forNode != "" {
				out.Hints.ForNodes = []discoveryv1.ForNode{{Name: e.forNode}}
			}
		}
		s.Endpoints = append(s.Endpoints, out)
	}
	return []*discoveryv1.EndpointSlice{s}
}

func service(change ...func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "svc"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.1",
			Ports: []corev1.ServicePort{{Name: "web", Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, f := range change {
		f(&s.Spec)
	}
	return s
}

func nodePort(policy corev1.ServiceExternalTrafficPolicy) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) {
		s.Type, s.Ports[0].NodePort, s.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, 30080, policy
	}
}

func internalLocal(s *corev1.ServiceSpec) {
	s.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
}

func to(addrs ...string) Endpoints {
	var out Endpoints
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(netip.MustParseAddr(a), 8080))
	}
	return out
}

var compareAddrs = cmp.Options{cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmpopts.EquateEmpty()}

func TestWhereDoesThisPacketGo(t *testing.T) {
	const (
		pod     = "10.244.1.9"
		outside = "203.0.113.5"
		vip     = "10.96.0.1"
		nodeIP  = "192.168.0.1"
	)
	here, there := live("10.244.1.2", "here"), live("10.244.2.2", "there")
	cases := map[string]struct {
		svc      *corev1.Service
		eps      []ep
		src      string
		fromNode bool
		dst      string
		port     uint16
		want     Outcome
	}{
		"pod to cluster IP keeps its source": {
			svc: service(), eps: []ep{here, there}, src: pod, dst: vip, port: 80,
			want: Outcome{Action: Forwarded, To: to("10.244.1.2", "10.244.2.2")},
		},
		"hairpin is masqueraded": {
			svc: service(), eps: []ep{here, there}, src: "10.244.1.2", dst: vip, port: 80,
			want: Outcome{Action: Forwarded, To: to("10.244.1.2", "10.244.2.2"), Masqueraded: to("10.244.1.2")},
		},
		"outside to cluster IP is masqueraded": {
			svc: service(), eps: []ep{here}, src: outside, dst: vip, port: 80,
			want: Outcome{Action: Forwarded, To: to("10.244.1.2"), Masqueraded: to("10.244.1.2")},
		},
		"no endpoints": {svc: service(), src: pod, dst: vip, port: 80, want: Outcome{Action: Rejected}},
		"a port that is not served": {
			svc: service(), eps: []ep{here}, src: pod, dst: vip, port: 81, want: Outcome{Action: Rejected, Why: "ns/svc"},
		},
		"another address": {svc: service(), eps: []ep{here}, src: pod, dst: "10.96.0.2", port: 80, want: Outcome{Action: Passed}},
		"not ready is left out": {
			svc: service(), eps: []ep{here, {addr: "10.244.2.2", node: "there"}}, src: pod, dst: vip, port: 80,
			want: Outcome{Action: Forwarded, To: to("10.244.1.2")},
		},
		"terminating is used if nothing else serves": {
			svc: service(), eps: []ep{{addr: "10.244.2.2", node: "there", serving: true, terminating: true}, {addr: "10.244.2.3", node: "there", terminating: true}},
			src: pod, dst: vip, port: 80, want: Outcome{Action: Forwarded, To: to("10.244.2.2")},
		},
		"internal policy Local": {
			svc: service(internalLocal), eps: []ep{here, there}, src: pod, dst: vip, port: 80,
			want: Outcome{Action: Forwarded, To: to("10.244.1.2")},
		},
		"internal policy Local without a local endpoint drops": {
			svc: service(internalLocal), eps: []ep{there}, src: pod, dst: vip, port: 80, want: Outcome{Action: Dropped},
		},
		"node port is masqueraded": {
			svc: service(nodePort(corev1.ServiceExternalTrafficPolicyCluster)), eps: []ep{there}, src: outside, dst: nodeIP, port: 30080,
			want: Outcome{Action: Forwarded, To: to("10.244.2.2"), Masqueraded: to("10.244.2.2")},
		},
		"external policy Local from outside keeps the source": {
			svc: service(nodePort(corev1.ServiceExternalTrafficPolicyLocal)), eps: []ep{here, there}, src: outside, dst: nodeIP, port: 30080,
			want: Outcome{Action: Forwarded, To: to("10.244.1.2")},
		},
		"external policy Local without a local endpoint drops outside traffic": {
			svc: service(nodePort(corev1.ServiceExternalTrafficPolicyLocal)), eps: []ep{there}, src: outside, dst: nodeIP, port: 30080,
			want: Outcome{Action: Dropped},
		},
		"external policy Local from a pod goes anywhere": {
			svc: service(nodePort(corev1.ServiceExternalTrafficPolicyLocal)), eps: []ep{there}, src: pod, dst: nodeIP, port: 30080,
			want: Outcome{Action: Forwarded, To: to("10.244.2.2")},
		},
		"external policy Local from the node itself goes anywhere, masqueraded": {
			svc: service(nodePort(corev1.ServiceExternalTrafficPolicyLocal)), eps: []ep{there}, src: nodeIP, fromNode: true, dst: nodeIP, port: 30080,
			want: Outcome{Action: Forwarded, To: to("10.244.2.2"), Masqueraded: to("10.244.2.2")},
		},
		"external policy Local, local endpoint terminating": {
			svc: service(nodePort(corev1.ServiceExternalTrafficPolicyLocal)),
			eps: []ep{{addr: "10.244.1.2", node: "here", serving: true, terminating: true}, there}, src: outside, dst: nodeIP, port: 30080,
			want: Outcome{Action: Forwarded, To: to("10.244.1.2")},
		},
		"zone hints": {
			svc: service(), eps: []ep{
				{addr: "10.244.1.2", node: "here", ready: true, zone: "a"}, {addr: "10.244.2.2", node: "there", ready: true, zone: "b"},
			}, src: pod, dst: vip, port: 80, want: Outcome{Action: Forwarded, To: to("10.244.1.2")},
		},
		"zone hints on some endpoints only are ignored": {
			svc: service(), eps: []ep{{addr: "10.244.1.2", node: "here", ready: true, zone: "a"}, there},
			src: pod, dst: vip, port: 80, want: Outcome{Action: Forwarded, To: to("10.244.1.2", "10.244.2.2")},
		},
		"zone hints for other zones are ignored": {
			svc: service(), eps: []ep{{addr: "10.244.2.2", node: "there", ready: true, zone: "b"}},
			src: pod, dst: vip, port: 80, want: Outcome{Action: Forwarded, To: to("10.244.2.2")},
		},
		"node hints come before zone hints": {
			svc: service(), eps: []ep{
				{addr: "10.244.1.2", node: "here", ready: true, zone: "a", forNode: "here"},
				{addr: "10.244.2.2", node: "there", ready: true, zone: "a", forNode: "there"},
			}, src: pod, dst: vip, port: 80, want: Outcome{Action: Forwarded, To: to("10.244.1.2")},
		},
		"external name has no rules": {
			svc: service(func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeExternalName }), eps: []ep{here}, src: pod, dst: vip, port: 80,
			want: Outcome{Action: Passed},
		},
	}
	cfg := Config{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}
	node := Node{Name: "here", Zone: "a", Addrs: []netip.Addr{netip.MustParseAddr(nodeIP)}}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := ForService(tc.svc, slice(tc.eps...), node, cfg)
			r := Rules{Config: cfg, Services: map[types.NamespacedName]Service{s.Name: s}}
			got := r.Trace(Packet{
				Src: netip.MustParseAddr(tc.src), FromNode: tc.fromNode,
				Dst: Frontend{Addr: netip.MustParseAddr(tc.dst), Protocol: TCP, Port: tc.port},
			})
			if tc.want.Why == "" && tc.want.Action != Passed {
				tc.want.Why = "ns/svc:web"
			}
			if diff := cmp.Diff(tc.want, got, compareAddrs); diff != "" {
				t.Errorf("-want +got:\n%s\nrules:\n%s", diff, r)
			}
		})
	}
}

func TestForService(t *testing.T) {
	node := Node{Name: "here", Addrs: []netip.Addr{netip.MustParseAddr("192.168.0.1")}}
	svc := service(func(s *corev1.ServiceSpec) {
		s.Type = corev1.ServiceTypeLoadBalancer
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.HealthCheckNodePort = 30500
		s.Ports[0].NodePort = 30080
		s.SessionAffinity = corev1.ServiceAffinityClientIP
		s.ExternalIPs = []string{"198.51.100.1"}
		s.LoadBalancerSourceRanges = []string{"10.1.0.0/16", " 10.0.0.0/8 ", "192.0.2.7/32"}
	})
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.2"}, {IP: "198.51.100.3", IPMode: new(corev1.LoadBalancerIPModeProxy)}}
	got := ForService(svc, slice(live("10.244.1.2", "here"), live("10.244.2.2", "there")), node, Config{})

	var kinds []string
	for _, e := range got.Entries {
		kinds = append(kinds, e.Kind+" "+e.Frontend.String())
		if e.Affinity != 3*time.Hour {
			t.Errorf("%s has affinity %s, want the default of 3h", e.Frontend, e.Affinity)
		}
		wantSources := []string(nil)
		if e.Kind == "LoadBalancer" {
			wantSources = []string{"10.0.0.0/8", "192.0.2.7/32"}
		}
		var sources []string
		for _, p := range e.Sources {
			sources = append(sources, p.String())
		}
		if diff := cmp.Diff(wantSources, sources); diff != "" {
			t.Errorf("sources of %s: %s", e.Frontend, diff)
		}
	}
	want := []string{"ClusterIP tcp 10.96.0.1:80", "NodePort tcp 192.168.0.1:30080", "ExternalIP tcp 198.51.100.1:80", "LoadBalancer tcp 198.51.100.2:80"}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("frontends, -want +got:\n%s", diff)
	}
	if got.HealthCheckPort != 30500 || got.LocalCount != 1 {
		t.Errorf("health check port %d with %d local endpoints, want 30500 and 1", got.HealthCheckPort, got.LocalCount)
	}
	draining := ForService(svc, slice(ep{addr: "10.244.1.2", node: "here", serving: true, terminating: true}), node, Config{})
	if draining.LocalCount != 0 || len(draining.LocalAddrs) == 0 {
		t.Errorf("of an endpoint that terminates: %d count, addresses %v; want none, and its own", draining.LocalCount, draining.LocalAddrs)
	}
}
