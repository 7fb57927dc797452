package proxier

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"

	"keelson.dev/proxy-lite/internal/testnet"
)

func testService(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.50",
			Ports: []corev1.ServicePort{{Name: "t", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "u", Port: 80, Protocol: corev1.ProtocolUDP}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func testSlice(addrs ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: new("t"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))},
			{Name: new("u"), Protocol: new(corev1.ProtocolUDP), Port: new(int32(8080))},
		},
	}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: new("here")})
	}
	return s
}

func testNode(addr string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "here"},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}},
	}
}

// start runs a proxy for the node of a test network.
func start(t *testing.T, n *testnet.Net, objects ...runtime.Object) *fake.Clientset {
	client := fake.NewClientset(objects...)
	cfg := Config{NodeName: "here", ClusterCIDR: "10.244.0.0/16,fd00::af4:0/112", MasqueradeEgress: true, NetworkPolicy: true, HealthzBindAddress: "127.0.0.1:10256", MetricsBindAddress: "127.0.0.1:10249"}
	rulesConfig, err := cfg.rules()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	p := newProxier(cfg, rulesConfig)
	p.flows.Patience = 2 * time.Second // eventually waits for 10
	go n.Node.Do(func() { done <- p.run(ctx, client) })
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return client
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) { return check(), nil })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func TestFollowsTheAPI(t *testing.T) {
	n := testnet.New(t)
	outside, nodeAddr := n.Outside("192.168.50.9")
	a, b := n.Pod("10.244.7.2"), n.Pod("10.244.7.3")
	a.ServeTCP(8080, "a")
	b.ServeTCP(8080, "b")
	client := start(t, n, testNode(nodeAddr.String()), testService(), testSlice("10.244.7.2"))
	vip := netip.MustParseAddrPort("10.96.0.50:80")
	eventually(t, "the service answers", func() bool { return b.Ask("tcp4", vip).Server == "a" })

	if _, err := client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), testSlice("10.244.7.3"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "the other endpoint answers", func() bool { return a.Ask("tcp4", vip).Server == "b" })
	t.Logf("a changed endpoint was in the kernel after %v", time.Since(began))

	nodePort := testService(func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.Ports[0].NodePort = 30080
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.HealthCheckNodePort = 30081
	})
	if _, err := client.CoreV1().Services("default").Update(t.Context(), nodePort, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(nodeAddr, 30080)
	eventually(t, "the node port answers", func() bool { return outside.Ask("tcp4", at).Server == "b" })
	if got := outside.Ask("tcp4", at); got.Client != outside.Addr.String() {
		t.Errorf("with externalTrafficPolicy Local the endpoint saw %v, want %s", got, outside.Addr)
	}
	eventually(t, "the health check node port answers", func() bool {
		status, body := get(n.Node, fmt.Sprintf("%s:30081", nodeAddr), "/")
		return status == 200 && strings.Contains(body, `"localEndpoints":1`)
	})
	if status, body := get(n.Node, "127.0.0.1:10256", "/healthz"); status != 200 || !strings.Contains(body, `"nodeEligible":true`) {
		t.Errorf("/healthz says %d %s", status, body)
	}
	if status, body := get(n.Node, "127.0.0.1:10249", "/metrics"); status != 200 || !strings.Contains(body, `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`) {
		t.Errorf("/metrics says %d %s", status, body)
	}
	if err := client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service is gone", func() bool { return a.Ask("tcp4", vip).Err != nil })
}

// get dials on the namespace's own thread, which an http.Client would not.
func get(from *testnet.Host, addr, path string) (status int, body string) {
	from.Do(func() {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			body = err.Error()
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "GET %s HTTP/1.0\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			body = err.Error()
			return
		}
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body) // compared by the caller
		status, body = resp.StatusCode, string(data)
	})
	return status, body
}

// TestDualStack checks that a Service with an address of each family answers at both, and that policies hold in both.
func TestDualStack(t *testing.T) {
	n := testnet.NewV6(t)
	_, nodeAddr := n.Outside("192.168.50.9")
	a, b := n.Pod("10.244.7.2"), n.Pod("10.244.7.3")
	for _, host := range []*testnet.Host{a, b} {
		host.ServeTCP(8080, host.Addr.String())
	}
	vip4, vip6 := netip.MustParseAddrPort("10.96.0.50:80"), netip.AddrPortFrom(netip.MustParseAddr(n.IP("10.96.0.50")), 80)
	dual := testService(func(s *corev1.Service) {
		s.Spec.ClusterIPs = []string{vip4.Addr().String(), vip6.Addr().String()}
	})
	six := testSlice(n.IP("10.244.7.3"))
	six.Name, six.AddressType = "web-6", discoveryv1.AddressTypeIPv6
	node := testNode(nodeAddr.String())
	node.Spec.PodCIDRs = []string{"10.244.7.0/24", n.CIDR("10.244.7.0/24")}
	both := func(name, ip string) *corev1.Pod {
		p := policyPod(name, ip)
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: n.IP(ip)})
		return p
	}
	client := start(t, n, node, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		both("a", "10.244.7.2"), both("b", "10.244.7.3"), dual, testSlice("10.244.7.3"), six)
	answers := func(vip netip.AddrPort) func() bool {
		return func() bool { return a.Ask("tcp", vip).Server == b.Addr.String() }
	}
	eventually(t, "IPv4 answers", answers(vip4))
	eventually(t, "IPv6 answers", answers(vip6))
	if got := b.Ask("tcp", vip6); got.Server != b.Addr.String() {
		t.Errorf("a pod that asks itself got %v", got)
	}
	create := func(p *networkingv1.NetworkPolicy) {
		t.Helper()
		if _, err := client.NetworkingV1().NetworkPolicies("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	n.Node.ServeTCP(9001, "node")
	create(networkPolicy("limited", "a", networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress:      []networkingv1.NetworkPolicyEgressRule{{To: fromApp("b")}},
	}))
	eventually(t, "egress is limited", func() bool { return a.Ask("tcp", netip.AddrPortFrom(nodeAddr, 9001)).Err != nil })
	a.Run("ip", "-6", "neigh", "flush", "all")
	n.Node.Run("ip", "-6", "neigh", "flush", "all")
	if !answers(vip6)() || !answers(vip4)() {
		t.Error("a pod whose egress is limited does not reach what it may")
	}
	create(networkPolicy("closed", "b", networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}))
	eventually(t, "IPv4 is closed", func() bool { return a.Ask("tcp", vip4).Err != nil })
	eventually(t, "IPv6 is closed", func() bool { return a.Ask("tcp", vip6).Err != nil })
}

// TestUDPClientFollows checks that a client which keeps its socket is moved when its endpoint goes, and when a Service gets its
// first endpoint.
func TestUDPClientFollows(t *testing.T) {
	n := testnet.New(t)
	_, nodeAddr := n.Outside("192.168.50.9")
	a, b := n.Pod("10.244.7.2"), n.Pod("10.244.7.3")
	a.ServeUDP(8080, "a")
	b.ServeUDP(8080, "b")
	client := start(t, n, testNode(nodeAddr.String()), testService(), testSlice("10.244.7.2"))
	vip := netip.MustParseAddrPort("10.96.0.50:80")
	eventually(t, "the service answers", func() bool { return b.Ask("udp4", vip).Server == "a" })

	pod := n.Pod("10.244.7.4")
	ask := pod.KeepUDP(vip)
	if got := ask(); got.Server != "a" {
		t.Fatalf("got %v, want a", got)
	}
	if _, err := client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), testSlice("10.244.7.3"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the same socket reaches the other endpoint", func() bool { return ask().Server == "b" })
}

// served is a Service that has the endpoint a, while another server is ready at 10.244.7.3, and a pod that may ask it at vip.
func served(t *testing.T) (n *testnet.Net, a, pod *testnet.Host, client *fake.Clientset, vip netip.AddrPort) {
	t.Helper()
	n = testnet.New(t)
	_, nodeAddr := n.Outside("192.168.50.9")
	a, pod = n.Pod("10.244.7.2"), n.Pod("10.244.7.4")
	a.ServeTCP(8080, "a")
	n.Pod("10.244.7.3").ServeTCP(8080, "b")
	client = start(t, n, testNode(nodeAddr.String()), testService(), testSlice("10.244.7.2"))
	vip = netip.MustParseAddrPort("10.96.0.50:80")
	eventually(t, "the service answers", func() bool { return pod.Ask("tcp4", vip).Server == "a" })
	return n, a, pod, client, vip
}

// TestUnansweredConnectionFollows has a client wait for an endpoint that does not answer, as if its node had died: once that is given up,
// the connection gets through to another one, with the same port and without a new attempt.
func TestUnansweredConnectionFollows(t *testing.T) {
	n, a, pod, client, vip := served(t)

	a.Run("ip", "route", "add", "blackhole", pod.Addr.String())
	dialed := make(chan error, 1)
	go pod.Do(func() {
		connection, err := net.DialTimeout("tcp4", vip.String(), 20*time.Second)
		if err == nil {
			err = connection.Close()
		}
		dialed <- err
	})
	eventually(t, "the kernel has sent the client to the dead endpoint", func() (waits bool) {
		n.Node.Do(func() {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
			waits = err == nil && slices.ContainsFunc(flows, func(f *netlink.ConntrackFlow) bool {
				tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
				return ok && tcp.State == nl.TCP_CONNTRACK_SYN_SENT
			})
		})
		return waits
	})
	if _, err := client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), testSlice("10.244.7.3"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-dialed; err != nil {
		t.Errorf("the connection ended with %v", err)
	}
}

// TestAbandonedConnectionIsForgotten has a client close a connection to an endpoint that is gone without a word, as if its node had died:
// when the client's kernel has given up and uses the port for a new connection, that gets to the endpoint that there is.
func TestAbandonedConnectionIsForgotten(t *testing.T) {
	n, a, pod, client, vip := served(t)

	n.Node.Run("grep", "-qx", "1", "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close") // one that is reset is forgotten by the kernel
	pod.Run("sysctl", "-qw", "net.ipv4.tcp_orphan_retries=1")                                // to wait a second, not two minutes
	var port net.Addr
	pod.Do(func() {
		connection, err := net.Dial("tcp4", vip.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := connection.Read(make([]byte, 1024)); err != nil { // closed with something unread it would be reset
			t.Fatal(err)
		}
		port = connection.LocalAddr()
		a.Run("ip", "route", "add", "blackhole", pod.Addr.String())
		if err := connection.Close(); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), testSlice("10.244.7.3"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the same port reaches the other endpoint", func() (reached bool) {
		pod.Do(func() {
			connection, err := (&net.Dialer{LocalAddr: port, Timeout: time.Second}).Dial("tcp4", vip.String())
			if reached = err == nil; reached {
				_ = connection.Close()
			}
		})
		return reached
	})
}
