package services

import (
	"math/big"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/utils/ptr"
)

func TestPlanFamilies(t *testing.T) {
	const v4, v6 = corev1.IPv4Protocol, corev1.IPv6Protocol
	cases := map[string]struct {
		spec      corev1.ServiceSpec
		available []corev1.IPFamily
		want      []corev1.IPFamily
		policy    corev1.IPFamilyPolicy
		errors    int
	}{
		"plain":                       {corev1.ServiceSpec{Type: "ClusterIP"}, []corev1.IPFamily{v4}, []corev1.IPFamily{v4}, "SingleStack", 0},
		"external name":               {corev1.ServiceSpec{Type: "ExternalName"}, []corev1.IPFamily{v4}, nil, "", 0},
		"family of the address":       {corev1.ServiceSpec{Type: "ClusterIP", ClusterIPs: []string{"fd00::1"}}, []corev1.IPFamily{v4, v6}, []corev1.IPFamily{v6}, "SingleStack", 0},
		"prefers two, has one":        {corev1.ServiceSpec{Type: "ClusterIP", IPFamilyPolicy: new(corev1.IPFamilyPolicyPreferDualStack)}, []corev1.IPFamily{v4}, []corev1.IPFamily{v4}, "PreferDualStack", 0},
		"prefers two, has two":        {corev1.ServiceSpec{Type: "ClusterIP", IPFamilyPolicy: new(corev1.IPFamilyPolicyPreferDualStack)}, []corev1.IPFamily{v6, v4}, []corev1.IPFamily{v6, v4}, "PreferDualStack", 0},
		"requires two, has one":       {corev1.ServiceSpec{Type: "ClusterIP", IPFamilyPolicy: new(corev1.IPFamilyPolicyRequireDualStack)}, []corev1.IPFamily{v4}, nil, "RequireDualStack", 1},
		"family that is not there":    {corev1.ServiceSpec{Type: "ClusterIP", IPFamilies: []corev1.IPFamily{v6}}, []corev1.IPFamily{v4}, []corev1.IPFamily{v6}, "", 1},
		"headless without selector":   {corev1.ServiceSpec{Type: "ClusterIP", ClusterIPs: []string{"None"}}, []corev1.IPFamily{v4}, []corev1.IPFamily{v4, v6}, "RequireDualStack", 0},
		"headless with selector":      {corev1.ServiceSpec{Type: "ClusterIP", ClusterIPs: []string{"None"}, Selector: map[string]string{"a": "b"}}, []corev1.IPFamily{v4}, []corev1.IPFamily{v4}, "SingleStack", 0},
		"two addresses and no policy": {corev1.ServiceSpec{Type: "ClusterIP", ClusterIPs: []string{"10.0.0.1", "fd00::1"}}, []corev1.IPFamily{v4, v6}, nil, "", 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			errs := planFamilies(&c.spec, nil, c.available)
			if len(errs) != c.errors {
				t.Fatalf("errors: %v", errs)
			}
			if diff := cmp.Diff(c.want, c.spec.IPFamilies); diff != "" {
				t.Error(diff)
			}
			if got := ptr.Deref(c.spec.IPFamilyPolicy, ""); got != c.policy {
				t.Errorf("policy %q, want %q", got, c.policy)
			}
		})
	}
}

func TestPlanFamiliesOfUpdates(t *testing.T) {
	old := &corev1.ServiceSpec{Type: "ClusterIP", ClusterIPs: []string{"10.0.0.1"}, IPFamilies: []corev1.IPFamily{"IPv4"}, IPFamilyPolicy: new(corev1.IPFamilyPolicyPreferDualStack)}
	spec := &corev1.ServiceSpec{Type: "ClusterIP", ClusterIPs: []string{"10.0.0.1"}}
	if errs := planFamilies(spec, old, []corev1.IPFamily{"IPv4"}); len(errs) > 0 {
		t.Fatal(errs)
	}
	want := old.DeepCopy() // what an old client leaves out stays
	if diff := cmp.Diff(want, spec); diff != "" {
		t.Error(diff)
	}
}

func TestBounds(t *testing.T) {
	cases := map[string]struct{ size, offset uint64 }{
		"10.96.0.0/12":  {1<<20 - 2, 256},
		"10.0.0.0/24":   {254, 16},
		"10.0.0.0/29":   {6, 0},
		"10.0.0.0/31":   {0, 0},
		"fd00::/112":    {1<<16 - 1, 256},
		"fd00::/32":     {1<<62 - 1, 256},
		"10.0.0.128/25": {126, 16},
	}
	for cidr, want := range cases {
		size, offset := bounds(netip.MustParsePrefix(cidr))
		if size != want.size || offset != want.offset {
			t.Errorf("%s: %d addresses, %d reserved, want %+v", cidr, size, offset, want)
		}
	}
	for address, want := range map[string]bool{"10.0.0.0": false, "10.0.0.1": true, "10.0.0.254": true, "10.0.0.255": false} {
		if got := usable(netip.MustParsePrefix("10.0.0.0/24"), netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: usable %v", address, got)
		}
	}
}

func TestCompareAddresses(t *testing.T) {
	now := time.Unix(1e9, 0)
	service := func(name, ip string) corev1.Service {
		return corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name}, Spec: corev1.ServiceSpec{Type: "ClusterIP", ClusterIPs: []string{ip}}}
	}
	address := func(ip, owner string, age time.Duration, change func(*networkingv1.IPAddress)) networkingv1.IPAddress {
		a := newIPAddress(netip.MustParseAddr(ip), "n", owner)
		a.CreationTimestamp = metav1.NewTime(now.Add(-age))
		if change != nil {
			change(a)
		}
		return *a
	}
	foreign := func(a *networkingv1.IPAddress) { a.Labels[networkingv1.LabelManagedBy] = "somebody" }
	r := compareAddresses(
		[]corev1.Service{
			service("a", "10.0.0.1"), service("b", "10.0.0.2"), service("headless", "None"), service("stolen", "10.0.0.5"), service("twin", "10.0.0.1"),
			service("far", "10.9.0.1"), service("broken", "x"), service("relabelled", "10.0.0.6"), service("moved", "10.0.0.7"),
		},
		[]networkingv1.IPAddress{
			address("10.0.0.1", "a", time.Hour, nil), address("10.0.0.3", "gone", time.Hour, nil), address("10.0.0.4", "young", time.Second, nil),
			address("10.0.0.5", "gone", time.Hour, nil), address("10.0.0.6", "relabelled", time.Hour, foreign), address("10.0.0.7", "moved", time.Hour, nil),
			address("10.0.0.8", "moved", time.Hour, nil), address("10.0.0.9", "gone", time.Hour, foreign),
			address("10.0.0.10", "x", time.Hour, func(a *networkingv1.IPAddress) { a.Spec.ParentRef.Resource = "gateways" }),
		},
		[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, now)
	names := func(all []*networkingv1.IPAddress) (out []string) {
		for _, a := range all {
			out = append(out, a.Name)
		}
		return out
	}
	if diff := cmp.Diff([]string{"10.0.0.2", "10.0.0.5", "10.0.0.6"}, names(r.missing)); diff != "" {
		t.Error("missing", diff)
	}
	if diff := cmp.Diff([]string{"10.0.0.5", "10.0.0.6", "10.0.0.3", "10.0.0.8", "10.0.0.10"}, names(r.leaked)); diff != "" {
		t.Error("leaked", diff)
	}
	var told []string
	for _, f := range r.findings {
		told = append(told, f.about.(metav1.Object).GetName()+" "+f.reason)
	}
	if diff := cmp.Diff([]string{
		"b ClusterIPNotAllocated", "stolen ClusterIPNotAllocated", "twin ClusterIPAlreadyAllocated", "far ClusterIPOutOfRange", "broken ClusterIPNotValid",
		"10.0.0.3 IPAddressNotAllocated", "10.0.0.8 IPAddressWrongReference", "10.0.0.10 IPAddressNotAllocated",
	}, told); diff != "" {
		t.Error("told", diff)
	}
}

func TestPortsOutliveAChangeOfTheRange(t *testing.T) {
	p := &ports{all: utilnet.PortRange{Base: 30010, Size: 10}}
	former := new(big.Int)
	former.SetBit(former, 5, 1)  // 30005
	former.SetBit(former, 12, 1) // 30012
	used := p.moved(&corev1.RangeAllocation{Range: "30000-30019", Data: former.Bytes()})
	if used.Bit(2) != 1 || used.BitLen() != 3 {
		t.Errorf("moved to %b", used)
	}
	unused := map[int32]int{}
	for round := range patience {
		holding := corev1.Service{Spec: corev1.ServiceSpec{Type: "NodePort", Ports: []corev1.ServicePort{{NodePort: 30015}, {NodePort: 30005}}}}
		missing, leaked, findings := p.compare(used, []corev1.Service{holding, holding}, unused)
		var told []string
		for _, f := range findings {
			told = append(told, f.reason)
		}
		if diff := cmp.Diff([]string{"PortNotAllocated", "PortOutOfRange", "PortAlreadyAllocated", "PortOutOfRange"}, told); diff != "" {
			t.Error(diff)
		}
		if !slices.Equal(missing, []int32{30015}) {
			t.Errorf("missing %v", missing)
		}
		if last := round == patience-1; last != slices.Equal(leaked, []int32{30012}) {
			t.Errorf("round %d: leaked %v", round, leaked)
		}
	}
}
