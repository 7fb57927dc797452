package nftables

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/proxy-lite/internal/testnet"
	"keelson.dev/proxy-lite/rules"
)

// bench is a node with three local pods, a client outside, and a pod of another node, which is reached over the outside link. Tests
// name IPv4 addresses; on a network of IPv6 they stand for others (testnet.Net.IP).
type bench struct {
	t       *testing.T
	net     *testnet.Net
	pods    []*testnet.Host
	outside *testnet.Host
	node    rules.Node
	rules   rules.Rules
	writer  *Writer
}

var allPods = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}

func newBench(t *testing.T) *bench { return newBenchOn(testnet.New(t), t) }

func newBenchOn(net *testnet.Net, t *testing.T) *bench {
	b := &bench{t: t, net: net}
	var nodeAddr netip.Addr
	b.outside, nodeAddr = b.net.Outside("192.168.50.9")
	for i := range 3 {
		pod := b.net.Pod(fmt.Sprintf("10.244.7.%d", i+2))
		name := fmt.Sprintf("pod%d", i)
		pod.ServeTCP(8080, name)
		pod.ServeUDP(8080, name)
		b.pods = append(b.pods, pod)
	}
	b.node = rules.Node{Name: "here", Addrs: []netip.Addr{nodeAddr}}
	b.rules = rules.Rules{
		Config:   rules.Config{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix(net.CIDR(allPods[0].String()))}, MasqueradeEgress: true},
		Services: map[types.NamespacedName]rules.Service{},
	}
	var err error
	if b.writer, err = New(net.V6, b.rules.Config); err != nil {
		t.Fatal(err)
	}
	b.set()
	return b
}

// set writes Services into the rules and the kernel.
func (b *bench) set(services ...rules.Service) {
	b.t.Helper()
	for _, s := range services {
		b.rules.Services[s.Name] = s
	}
	var err error
	b.net.Node.Do(func() { err = b.writer.Update(b.t.Context(), services...) })
	if err != nil {
		b.t.Fatal(err)
	}
	if os.Getenv("KEELSON_SHOW_RULES") != "" {
		b.net.Node.Run("sh", "-c", "nft list ruleset >&2")
	}
}

func (b *bench) service(name string, endpoints []string, change func(*corev1.Service)) rules.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{
			{Name: "t", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "u", Port: 80, Protocol: corev1.ProtocolUDP},
		}},
	}
	change(svc)
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	if b.net.V6 {
		slice.AddressType = discoveryv1.AddressTypeIPv6
	}
	svc.Spec.ClusterIP = b.net.IP(svc.Spec.ClusterIP)
	for i, text := range svc.Spec.ExternalIPs {
		svc.Spec.ExternalIPs[i] = b.net.IP(text)
	}
	for i, text := range svc.Spec.LoadBalancerSourceRanges {
		svc.Spec.LoadBalancerSourceRanges[i] = b.net.CIDR(text)
	}
	for i := range svc.Status.LoadBalancer.Ingress {
		svc.Status.LoadBalancer.Ingress[i].IP = b.net.IP(svc.Status.LoadBalancer.Ingress[i].IP)
	}
	for _, p := range svc.Spec.Ports {
		port := int32(8080)
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &port})
	}
	here, there := "here", "there"
	for _, addr := range endpoints {
		e := discoveryv1.Endpoint{Addresses: []string{b.net.IP(addr)}, NodeName: &there}
		if ip := netip.MustParseAddr(addr); ip == b.node.Addrs[0] || netip.MustParsePrefix("10.244.7.0/24").Contains(ip) {
			e.NodeName = &here
		}
		slice.Endpoints = append(slice.Endpoints, e)
	}
	return rules.ForService(svc, []*discoveryv1.EndpointSlice{slice}, b.node, b.rules.Config)
}

func clusterIP(ip string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.ClusterIP = ip }
}

func at(addr string) netip.AddrPort { return netip.MustParseAddrPort(addr) }

// servers asks n times and counts who answered.
func (b *bench) servers(from *testnet.Host, network, to string, n int) map[string]int {
	b.t.Helper()
	count := map[string]int{}
	for range n {
		a := from.Ask(network, at(to))
		if a.Err != nil {
			b.t.Errorf("%s %s: %v", network, to, a.Err)
			return count
		}
		count[a.Server]++
	}
	return count
}

var locals = []string{"10.244.7.2", "10.244.7.3", "10.244.7.4"}

func TestSpreadAndScale(t *testing.T) {
	b := newBench(t)
	b.set(b.service("web", locals, clusterIP("10.96.0.50")))
	for _, network := range []string{"tcp4", "udp4"} {
		for name, from := range map[string]*testnet.Host{"node": b.net.Node, "pod": b.pods[0], "outside": b.outside} {
			count := b.servers(from, network, "10.96.0.50:80", 60)
			for i := range 3 {
				if n := count[fmt.Sprint("pod", i)]; n < 5 {
					t.Errorf("%s from %s: pod%d answered %d of 60 (%v)", network, name, i, n, count)
				}
			}
		}
	}
	b.set(b.service("web", locals[:1], clusterIP("10.96.0.50")))
	if count := b.servers(b.pods[1], "tcp4", "10.96.0.50:80", 20); count["pod0"] != 20 {
		t.Errorf("after scaling to one endpoint: %v", count)
	}
	b.set(b.service("web", nil, clusterIP("10.96.0.50")))
	if a := b.pods[1].Ask("tcp4", at("10.96.0.50:80")); !errors.Is(a.Err, syscall.ECONNREFUSED) {
		t.Errorf("without endpoints: %v, want connection refused", a)
	}
	b.set(b.service("web", locals[1:2], clusterIP("10.96.0.50")))
	if count := b.servers(b.pods[2], "tcp4", "10.96.0.50:80", 20); count["pod1"] != 20 {
		t.Errorf("after scaling from none to one endpoint: %v", count)
	}
}

func TestAffinity(t *testing.T) {
	b := newBench(t)
	sticky := func(s *corev1.Service) {
		clusterIP("10.96.0.51")(s)
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		seconds := int32(1)
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	b.set(b.service("web", locals, sticky))
	first := b.servers(b.outside, "tcp4", "10.96.0.51:80", 30)
	if len(first) != 1 {
		t.Fatalf("one client reached %v", first)
	}
	mine := ""
	for name := range first {
		mine = name
	}
	// The client stays while others come and go, and moves when its own endpoint goes.
	var others, only []string
	for i, addr := range locals {
		if fmt.Sprint("pod", i) != mine {
			others = append(others, addr)
		} else {
			only = append(only, addr)
		}
	}
	b.set(b.service("web", append(slices.Clone(only), others[0]), sticky))
	if count := b.servers(b.outside, "tcp4", "10.96.0.51:80", 10); count[mine] != 10 {
		t.Errorf("after another endpoint went, the client moved from %s to %v", mine, count)
	}
	b.set(b.service("web", others, sticky))
	moved := b.servers(b.outside, "tcp4", "10.96.0.51:80", 10)
	if len(moved) != 1 || moved[mine] != 0 {
		t.Errorf("after its endpoint %s went, the client reached %v", mine, moved)
	}
	// After the timeout it may go anywhere.
	b.set(b.service("web", locals, sticky))
	seen := map[string]bool{}
	for range 20 {
		time.Sleep(1100 * time.Millisecond) //nolint:forbidigo // the kernel's clock cannot be set
		seen[b.outside.Ask("tcp4", at("10.96.0.51:80")).Server] = true
		if len(seen) > 1 {
			return
		}
	}
	t.Errorf("20 times after the timeout the client reached %v", seen)
}

// TestAffinityOutlivesTheProcess: a new writer, as after a restart, finds every client where the old one had it.
func TestAffinityOutlivesTheProcess(t *testing.T) {
	b := newBench(t)
	sticky := func(s *corev1.Service) {
		clusterIP("10.96.0.51")(s)
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	clients := append([]*testnet.Host{b.net.Node, b.outside}, b.pods...)
	for i := range 6 { // one endpoint of three by chance again: less than one in 100,000
		clients = append(clients, b.net.Pod(fmt.Sprintf("10.244.7.%d", 20+i)))
	}
	b.set(b.service("web", locals, sticky), b.service("other", locals, clusterIP("10.96.0.52")))
	before := make([]string, len(clients))
	for i, c := range clients {
		before[i] = c.Ask("tcp4", at("10.96.0.51:80")).Server
	}
	restart := func(endpoints []string) {
		t.Helper()
		var err error
		if b.writer, err = New(false, b.rules.Config); err != nil {
			t.Fatal(err)
		}
		b.set(b.service("web", endpoints, sticky), b.service("new", locals, clusterIP("10.96.0.53")))
	}
	restart(locals)
	for i, c := range clients {
		if got := c.Ask("tcp4", at("10.96.0.51:80")); got.Server != before[i] || got.Err != nil {
			t.Errorf("client %d reached %v after the restart, and %s before", i, got, before[i])
		}
	}
	if a := b.pods[0].Ask("tcp4", at("10.96.0.52:80")); a.Err == nil {
		t.Errorf("a service that is gone answers after the restart: %v", a)
	}
	b.servers(b.pods[0], "tcp4", "10.96.0.53:80", 5)
	restart(locals[1:]) // one endpoint went meanwhile: its clients move, the others stay
	for i, c := range clients {
		if got := c.Ask("tcp4", at("10.96.0.51:80")); got.Err != nil || got.Server == "pod0" || (before[i] != "pod0" && got.Server != before[i]) {
			t.Errorf("client %d reached %v without pod0, and %s before", i, got, before[i])
		}
	}
}

// TestConnectionsFromBefore: the kernel starts to follow connections when the first rules come. One that a node has with itself, such
// as a component's with the API server beside it, must go on, though it looks new then and both its ends are an endpoint's.
func TestConnectionsFromBefore(t *testing.T) {
	b := newBench(t)
	self := b.node.Addrs[0].String()
	b.net.Node.Run("nft", "flush", "ruleset")
	client, server := b.net.Node.Connect(self)
	var err error
	if b.writer, err = New(false, b.rules.Config); err != nil {
		t.Fatal(err)
	}
	b.set(b.service("kubernetes", []string{self}, clusterIP("10.96.0.1")))
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		deadline := time.Now().Add(2 * time.Second)
		must(t, way[0].SetDeadline(deadline))
		must(t, way[1].SetDeadline(deadline))
		if _, err := way[0].Write([]byte("still here")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(way[1], make([]byte, len("still here"))); err != nil {
			t.Fatalf("a connection from before the rules is broken: %v", err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestUDPWithoutEndpoints(t *testing.T) {
	b := newBench(t)
	b.set(b.service("dns", nil, clusterIP("10.96.0.10")))
	if a := b.pods[0].Ask("udp4", at("10.96.0.10:80")); !errors.Is(a.Err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want connection refused", a)
	}
}

func TestRestartReplacesTheTable(t *testing.T) {
	b := newBench(t)
	b.set(b.service("old", locals, clusterIP("10.96.0.60")))
	w, err := New(false, b.rules.Config)
	if err != nil {
		t.Fatal(err)
	}
	b.writer = w
	b.set(b.service("web", locals, clusterIP("10.96.0.61")))
	if a := b.pods[0].Ask("tcp4", at("10.96.0.60:80")); a.Err == nil {
		t.Errorf("the old service answers after a restart: %v", a)
	}
	b.servers(b.pods[0], "tcp4", "10.96.0.61:80", 5)
}

// TestKernelAgreesWithTrace sends packets of every kind and compares what happens with what the tracer says.
func TestKernelAgreesWithTrace(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) { agree(newBench(t), t) })
	t.Run("IPv6", func(t *testing.T) { agree(newBenchOn(testnet.NewV6(t), t), t) })
}

func agree(b *bench, t *testing.T) {
	node := b.node.Addrs[0]
	at := func(text string) netip.AddrPort {
		a := at(text)
		return netip.AddrPortFrom(netip.MustParseAddr(b.net.IP(a.Addr().String())), a.Port())
	}
	nodePort := func(port int32, policy corev1.ServiceExternalTrafficPolicy, ip string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			clusterIP(ip)(s)
			s.Spec.Type = corev1.ServiceTypeNodePort
			s.Spec.ExternalTrafficPolicy = policy
			for i := range s.Spec.Ports {
				s.Spec.Ports[i].NodePort = port
			}
		}
	}
	remote := []string{"10.244.9.9"} // no such pod: what is sent there gets no answer
	b.set(
		b.service("one", locals[:1], clusterIP("10.96.1.1")),
		b.service("none", nil, clusterIP("10.96.1.2")),
		b.service("internal-local", remote, func(s *corev1.Service) {
			clusterIP("10.96.1.3")(s)
			local := corev1.ServiceInternalTrafficPolicyLocal
			s.Spec.InternalTrafficPolicy = &local
		}),
		b.service("np", locals[1:2], nodePort(30001, corev1.ServiceExternalTrafficPolicyCluster, "10.96.1.4")),
		b.service("np-local", locals[2:], nodePort(30002, corev1.ServiceExternalTrafficPolicyLocal, "10.96.1.5")),
		b.service("np-remote", remote, nodePort(30003, corev1.ServiceExternalTrafficPolicyLocal, "10.96.1.6")),
		b.service("np-none", nil, nodePort(30004, corev1.ServiceExternalTrafficPolicyCluster, "10.96.1.7")),
		b.service("ext", locals[:1], func(s *corev1.Service) {
			clusterIP("10.96.1.8")(s)
			s.Spec.ExternalIPs = []string{"198.51.100.7"}
		}),
		b.service("lb", locals[1:2], func(s *corev1.Service) {
			clusterIP("10.96.1.9")(s)
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.LoadBalancerSourceRanges = []string{"10.244.7.0/24", "10.244.0.0/16"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.8"}}
		}),
	)
	sources := map[string]struct {
		host     *testnet.Host
		addr     netip.Addr
		fromNode bool
	}{
		"pod0": {b.pods[0], b.pods[0].Addr, false}, "pod2": {b.pods[2], b.pods[2].Addr, false},
		"outside": {b.outside, b.outside.Addr, false}, "node": {b.net.Node, node, true},
	}
	var targets []netip.AddrPort
	for i := 1; i <= 9; i++ {
		targets = append(targets, at(fmt.Sprintf("10.96.1.%d:80", i)))
	}
	for port := uint16(30001); port <= 30004; port++ {
		targets = append(targets, netip.AddrPortFrom(node, port))
	}
	targets = append(targets, at("198.51.100.7:80"), at("198.51.100.8:80"), at("10.96.1.1:81"))
	for name, from := range sources {
		for _, to := range targets {
			for network, protocol := range map[string]rules.Protocol{"tcp": rules.TCP, "udp": rules.UDP} {
				want := b.rules.Trace(rules.Packet{
					Src: from.addr, FromNode: from.fromNode,
					Dst: rules.Frontend{Addr: to.Addr(), Protocol: protocol, Port: to.Port()},
				})
				if diff := b.compare(want, from.addr, from.host.Ask(network, to)); diff != "" {
					t.Errorf("%s from %s to %s: %s", network, name, to, diff)
				}
			}
		}
	}
}

// compare says how an answer differs from an outcome, or "".
func (b *bench) compare(want rules.Outcome, src netip.Addr, got testnet.Answer) string {
	refused := errors.Is(got.Err, syscall.ECONNREFUSED)
	unsent := errors.Is(got.Err, syscall.EPERM) // what the node must not send does not leave the socket
	switch want.Action {
	case rules.Rejected:
		if !refused && !unsent {
			return fmt.Sprintf("got %v, want a rejection", got)
		}
	case rules.Dropped:
		if got.Err == nil || refused {
			return fmt.Sprintf("got %v, want silence", got)
		}
	case rules.Forwarded:
		i := slices.IndexFunc(want.To, func(ep netip.AddrPort) bool {
			i := slices.IndexFunc(locals, func(text string) bool { return b.net.IP(text) == ep.Addr().String() })
			return i >= 0 && got.Server == fmt.Sprint("pod", i)
		})
		if i < 0 {
			if got.Err != nil && !refused && want.To[0].Addr().String() == b.net.IP("10.244.9.9") {
				return ""
			}
			return fmt.Sprintf("got %v, want one of %v", got, want.To)
		}
		masqueraded := slices.Contains(want.Masqueraded, want.To[i])
		// The node's own source address is chosen by the route: towards a pod it is the gateway's either way.
		if seen := got.Client == src.String(); seen == masqueraded && src != b.node.Addrs[0] {
			return fmt.Sprintf("the server saw %s, masqueraded: want %v", got.Client, masqueraded)
		}
	default: // passed: the rules have no say
	}
	return ""
}

func TestEgressIsMasqueraded(t *testing.T) {
	b := newBench(t)
	b.outside.ServeTCP(9000, "outside")
	a := b.pods[0].Ask("tcp4", netip.AddrPortFrom(b.outside.Addr, 9000))
	if a.Err != nil || a.Client != b.node.Addrs[0].String() {
		t.Errorf("got %v, want the node's address %s", a, b.node.Addrs[0])
	}
}
