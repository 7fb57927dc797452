package loadbalancer

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/internal/vip"
)

func service(uid, has, asks string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, LoadBalancerIP: asks},
	}
	if has != "" {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: has}}
	}
	return s
}

func TestChoose(t *testing.T) {
	addresses := netip.MustParsePrefix("10.0.0.252/30")
	v6 := service("a", "", "")
	v6.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
	cases := map[string]struct {
		service *corev1.Service
		others  []*corev1.Service
		want    string // empty: none
	}{
		"the first":                        {service("a", "", ""), nil, "10.0.0.252"},
		"the first free one":               {service("a", "", ""), []*corev1.Service{service("b", "10.0.0.252", "")}, "10.0.0.253"},
		"the one it has":                   {service("a", "10.0.0.254", ""), []*corev1.Service{service("b", "10.0.0.252", "")}, "10.0.0.254"},
		"not one that another has too":     {service("a", "10.0.0.252", ""), []*corev1.Service{service("b", "10.0.0.252", "")}, "10.0.0.253"},
		"not one of another range":         {service("a", "10.9.9.9", ""), nil, "10.0.0.252"},
		"the one it asks for":              {service("a", "10.0.0.252", "10.0.0.254"), nil, "10.0.0.254"},
		"what it asks for is taken":        {service("a", "", "10.0.0.252"), []*corev1.Service{service("b", "10.0.0.252", "")}, ""},
		"what it asks for is not ours":     {service("a", "", "10.9.9.9"), nil, ""},
		"never the broadcast address":      {service("a", "", ""), []*corev1.Service{service("b", "10.0.0.252", ""), service("c", "10.0.0.253", ""), service("d", "10.0.0.254", "")}, ""},
		"a Service without an IPv4 family": {v6, nil, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := choose(tc.service, append(tc.others, tc.service), addresses)
			if text := got.String(); err == nil && text != tc.want || (err != nil) != (tc.want == "") {
				t.Errorf("got %v, %v, want %q", got, err, tc.want)
			}
		})
	}
}

func TestPlace(t *testing.T) {
	node := func(name string, ready corev1.ConditionStatus, labels map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		}}
	}
	lost, excluded := node("lost", "Unknown", nil), node("excluded", "True", map[string]string{corev1.LabelNodeExcludeBalancers: ""})
	a, b := node("a", "True", nil), node("b", "True", nil)
	on := func(name string, policy corev1.ServiceExternalTrafficPolicy) *corev1.Service {
		s := service("a", "", "")
		s.Annotations = map[string]string{vip.NodeAnnotation: name}
		s.Spec.ExternalTrafficPolicy = policy
		return s
	}
	cases := map[string]struct {
		service *corev1.Service
		nodes   []*corev1.Node
		serving map[string]bool
		want    string
	}{
		"no node":                         {on("", ""), []*corev1.Node{lost, excluded}, nil, ""},
		"the only one":                    {on("", ""), []*corev1.Node{lost, excluded, b}, nil, "b"},
		"it stays":                        {on("a", ""), []*corev1.Node{a, b}, nil, "a"},
		"it stays here too":               {on("b", ""), []*corev1.Node{a, b}, nil, "b"},
		"its node is lost":                {on("lost", ""), []*corev1.Node{lost, a}, nil, "a"},
		"local: a node with an endpoint":  {on("a", corev1.ServiceExternalTrafficPolicyLocal), []*corev1.Node{a, b}, map[string]bool{"b": true}, "b"},
		"local: no node with an endpoint": {on("a", corev1.ServiceExternalTrafficPolicyLocal), []*corev1.Node{a, b}, nil, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := place(tc.service, tc.nodes, tc.serving); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestOurs(t *testing.T) {
	class, deleted, other := service("a", "", ""), service("a", "", ""), service("a", "", "")
	class.Spec.LoadBalancerClass = new("x/y")
	deleted.DeletionTimestamp = new(metav1.Now())
	other.Spec.Type = corev1.ServiceTypeClusterIP
	for name, s := range map[string]*corev1.Service{"another class": class, "being deleted": deleted, "another type": other} {
		if ours(s) {
			t.Errorf("%s: it is not ours", name)
		}
	}
	if !ours(service("a", "", "")) {
		t.Error("it is ours")
	}
}
