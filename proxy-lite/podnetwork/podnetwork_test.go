package podnetwork

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name, address string, cidrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
	if address != "" {
		n.Status.Addresses = []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: address},
		}
	}
	return n
}

func TestFor(t *testing.T) {
	own, me := netip.MustParsePrefix("10.244.1.0/24"), []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	peer := func(cidr, gateway string) Peer {
		return Peer{PodCIDR: netip.MustParsePrefix(cidr), Gateway: netip.MustParseAddr(gateway)}
	}
	cases := map[string]struct {
		nodes []*corev1.Node
		want  Network
	}{
		"Alone":         {[]*corev1.Node{node("me", "10.0.0.1", "10.244.1.0/24")}, Network{PodCIDRs: []netip.Prefix{own}, Addresses: me}},
		"NoCIDRYet":     {[]*corev1.Node{node("me", "10.0.0.1"), node("b", "10.0.0.2")}, Network{Addresses: me}},
		"NoAddressYet":  {[]*corev1.Node{node("b", "", "10.244.2.0/24")}, Network{}},
		"BrokenCIDR":    {[]*corev1.Node{node("b", "10.0.0.2", "10.244.2")}, Network{}},
		"SortedByRange": {[]*corev1.Node{node("c", "10.0.0.3", "10.244.3.0/24"), node("me", "10.0.0.1", "10.244.1.0/24"), node("b", "10.0.0.2", "10.244.2.0/24")}, Network{PodCIDRs: []netip.Prefix{own}, Addresses: me, Peers: []Peer{peer("10.244.2.0/24", "10.0.0.2"), peer("10.244.3.0/24", "10.0.0.3")}}},
		"FamilyWithout": {[]*corev1.Node{node("b", "10.0.0.2", "10.244.2.0/24", "fd00:2::/64")}, Network{Peers: []Peer{peer("10.244.2.0/24", "10.0.0.2")}}},
	}
	hollow := node("h", "198.18.0.1", "100.64.0.0/24")
	hollow.Labels = map[string]string{hollowLabel: "true"}
	cases["HollowIsNowhere"] = struct {
		nodes []*corev1.Node
		want  Network
	}{[]*corev1.Node{hollow}, Network{Peers: []Peer{{PodCIDR: netip.MustParsePrefix("100.64.0.0/24")}, {PodCIDR: netip.MustParsePrefix("198.18.0.1/32")}}}}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := For("me", tc.nodes)
			if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
				cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestRoutes(t *testing.T) {
	network := Network{
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		Peers: []Peer{
			{PodCIDR: netip.MustParsePrefix("10.244.2.0/24"), Gateway: netip.MustParseAddr("10.0.0.2")},
			{PodCIDR: netip.MustParsePrefix("fd00:2::/64"), Gateway: netip.MustParseAddr("fd01::2")},
			{PodCIDR: netip.MustParsePrefix("100.64.0.0/24")},
			{PodCIDR: netip.MustParsePrefix("10.244.3.0/24"), Gateway: netip.MustParseAddr("10.1.0.3"), Tunnel: true},
			{PodCIDR: netip.MustParsePrefix("fd00:3::/64"), Gateway: netip.MustParseAddr("fd02::3"), Tunnel: true},
		},
	}
	got := map[string]string{}
	for cidr, r := range routes(network, map[int]int{unix.AF_INET: 7}) {
		if r.Dst.String() != cidr.String() || r.Protocol != routeProtocol {
			t.Errorf("route to %s is %v", cidr, r)
		}
		got[cidr.String()] = fmt.Sprint(r.Type, r.Gw, r.LinkIndex)
	}
	want := map[string]string{
		"10.244.1.0/24": fmt.Sprint(unix.RTN_BLACKHOLE, net.IP(nil), 0), "10.244.2.0/24": fmt.Sprint(unix.RTN_UNICAST, net.ParseIP("10.0.0.2"), 0),
		"fd00:2::/64": fmt.Sprint(unix.RTN_UNICAST, net.ParseIP("fd01::2"), 0), "100.64.0.0/24": fmt.Sprint(unix.RTN_UNREACHABLE, net.IP(nil), 0),
		"10.244.3.0/24": fmt.Sprint(unix.RTN_UNICAST, net.ParseIP("10.244.3.0"), 7),
		"fd00:3::/64":   fmt.Sprint(unix.RTN_UNREACHABLE, net.IP(nil), 0), // its tunnel could not be made
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
