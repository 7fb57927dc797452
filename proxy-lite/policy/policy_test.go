package policy

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestBlock(t *testing.T) {
	got := block(&networkingv1.IPBlock{CIDR: "10.0.0.0/30", Except: []string{"10.0.0.2/32"}})
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/31"), netip.MustParsePrefix("10.0.0.3/32")}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	// Whatever the exceptions are, an address is in the result if and only if it is in the block and in none of them.
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		b := &networkingv1.IPBlock{CIDR: "10.0.0.0/24"}
		for range random.IntN(4) {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(256))}), 24+random.IntN(9))
			b.Except = append(b.Except, p.Masked().String())
		}
		pieces := disjoint(block(b))
		for i := range 256 {
			addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			want := true
			for _, text := range b.Except {
				want = want && !netip.MustParsePrefix(text).Contains(addr)
			}
			count := 0
			for _, p := range pieces {
				if p.Contains(addr) {
					count++
				}
			}
			if (count == 1) != want || count > 1 {
				t.Fatalf("%s is in %d pieces of %v, want in the result: %v", addr, count, b, want)
			}
		}
	}
}

func pod(namespace, name, ip, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: ip}}},
	}
}

func TestBuild(t *testing.T) {
	web, db, other := pod("a", "web", "10.0.0.1", "here"), pod("a", "db", "10.0.1.1", "there"), pod("b", "web", "10.0.1.2", "there")
	host := pod("a", "db", "192.168.0.1", "here")
	host.Spec.HostNetwork = true
	namespaces := []*corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"team": "a"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "b", Labels: map[string]string{"team": "b"}}},
	}
	port, end := intstr.FromInt32(80), int32(90)
	policies := []*networkingv1.NetworkPolicy{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{
				From: []networkingv1.NetworkPolicyPeer{
					{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}},
					{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "b"}}},
				},
				Ports: []networkingv1.NetworkPolicyPort{{Port: &port, EndPort: &end}},
			}},
		},
	}}
	got := Build(policies, []*corev1.Pod{web, db, other, host}, namespaces, "here").String()
	want := `10.0.0.1 egress
10.0.0.1 ingress
  a/p ingress 0: peers [10.0.1.1/32 10.0.1.2/32] (any false), ports [{TCP 80 90}] [] (any false)
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if none := Build(nil, []*corev1.Pod{web}, namespaces, "here"); len(none.Known)+len(none.Pods) != 0 {
		t.Errorf("without policies there are rules: %v", none)
	}
}
