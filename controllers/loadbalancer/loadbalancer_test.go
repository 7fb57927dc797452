package loadbalancer

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestIngress(t *testing.T) {
	node := func(name string, ready corev1.ConditionStatus, labels map[string]string, ips ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		}}
		for _, ip := range ips {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
		}
		return n
	}
	nodes := []*corev1.Node{
		node("d", "True", nil, "10.0.0.4"), node("c", "True", nil, "10.0.0.3", "fd00::3"), node("b", "Unknown", nil, "10.0.0.2"),
		node("a", "True", nil, "10.0.0.1"), node("x", "True", map[string]string{corev1.LabelNodeExcludeBalancers: ""}, "10.0.0.9"),
	}
	v4 := []corev1.IPFamily{corev1.IPv4Protocol}
	cases := map[string]struct {
		spec corev1.ServiceSpec
		want []string
		ours bool
	}{
		"IPv4":          {corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: v4}, []string{"10.0.0.1", "10.0.0.3", "10.0.0.4"}, true},
		"IPv6":          {corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}}, []string{"fd00::3"}, true},
		"another class": {corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: v4, LoadBalancerClass: new("x/y")}, nil, false},
		"another type":  {corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, IPFamilies: v4}, nil, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, ours := ingress(&corev1.Service{Spec: tc.spec}, nodes)
			var ips []string
			for _, i := range got {
				ips = append(ips, i.IP)
			}
			if diff := cmp.Diff(tc.want, ips); diff != "" || ours != tc.ours {
				t.Errorf("ours %v: %s", ours, diff)
			}
		})
	}
}
