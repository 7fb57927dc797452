package core

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func TestDefaultService(t *testing.T) {
	s := &corev1.Service{Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, SessionAffinity: corev1.ServiceAffinityClientIP,
		Ports: []corev1.ServicePort{{Port: 80}},
	}}
	defaultService(s)
	want := corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, SessionAffinity: corev1.ServiceAffinityClientIP,
		SessionAffinityConfig:         &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](10800)}},
		Ports:                         []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(80)}},
		ExternalTrafficPolicy:         corev1.ServiceExternalTrafficPolicyCluster,
		InternalTrafficPolicy:         new(corev1.ServiceInternalTrafficPolicyCluster),
		AllocateLoadBalancerNodePorts: new(true),
	}
	if diff := cmp.Diff(want, s.Spec); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPrepareService: clients may leave out what was allocated, and change the type without clearing what belonged to the old one.
func TestPrepareService(t *testing.T) {
	clusterIP := corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1"},
		IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: new(corev1.IPFamilyPolicySingleStack),
	}
	nodePort := *clusterIP.DeepCopy()
	nodePort.Type, nodePort.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal
	nodePort.Ports = []corev1.ServicePort{{Name: "a", Port: 80, NodePort: 30000}, {Name: "b", Port: 81, NodePort: 30001}}
	dual := *clusterIP.DeepCopy()
	dual.ClusterIPs, dual.IPFamilies = []string{"10.0.0.1", "fd00::1"}, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	dual.IPFamilyPolicy = new(corev1.IPFamilyPolicyPreferDualStack)

	cases := map[string]struct {
		old    *corev1.ServiceSpec
		change func(*corev1.ServiceSpec)
		want   func(*corev1.ServiceSpec)
	}{
		"create with the singular address only": {
			change: func(s *corev1.ServiceSpec) { s.ClusterIP = "10.0.0.1" },
			want:   func(s *corev1.ServiceSpec) { s.ClusterIPs = []string{"10.0.0.1"} },
		},
		"address left out": {
			old:    &clusterIP,
			change: func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "", nil },
			want:   func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "10.0.0.1", []string{"10.0.0.1"} },
		},
		"singular address changed by an old client": {
			old:    &clusterIP,
			change: func(s *corev1.ServiceSpec) { s.ClusterIP = "10.0.0.2" },
			want:   func(s *corev1.ServiceSpec) { s.ClusterIPs = []string{"10.0.0.2"} },
		},
		"node ports left out and reordered": {
			old: &nodePort,
			change: func(s *corev1.ServiceSpec) {
				s.Ports = []corev1.ServicePort{{Name: "b", Port: 81}, {Name: "c", Port: 82}, {Name: "a", Port: 80}}
			},
			want: func(s *corev1.ServiceSpec) { s.Ports[0].NodePort, s.Ports[2].NodePort = 30001, 30000 },
		},
		"a node port moved to another name is not given twice": {
			old: &nodePort,
			change: func(s *corev1.ServiceSpec) {
				s.Ports = []corev1.ServicePort{{Name: "a", Port: 80}, {Name: "c", Port: 82, NodePort: 30000}}
			},
			want: func(*corev1.ServiceSpec) {},
		},
		"node ports are dropped with the type": {
			old:    &nodePort,
			change: func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeClusterIP },
			want: func(s *corev1.ServiceSpec) {
				s.Ports[0].NodePort, s.Ports[1].NodePort, s.ExternalTrafficPolicy = 0, 0, ""
			},
		},
		"to ExternalName": {
			old: &clusterIP,
			change: func(s *corev1.ServiceSpec) {
				s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "a.example"
			},
			want: func(s *corev1.ServiceSpec) {
				s.ClusterIP, s.ClusterIPs, s.IPFamilies, s.IPFamilyPolicy = "", nil, nil, nil
			},
		},
		"to single stack": {
			old:    &dual,
			change: func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = new(corev1.IPFamilyPolicySingleStack) },
			want: func(s *corev1.ServiceSpec) {
				s.ClusterIPs, s.IPFamilies = []string{"10.0.0.1"}, []corev1.IPFamily{corev1.IPv4Protocol}
			},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, want := &corev1.Service{}, &corev1.Service{}
			var old *corev1.Service
			if c.old != nil {
				old = &corev1.Service{Spec: *c.old}
				got.Spec = *c.old.DeepCopy()
			}
			c.change(&got.Spec)
			want.Spec = *got.Spec.DeepCopy()
			c.want(&want.Spec)
			prepareService(got, old)
			if diff := cmp.Diff(want.Spec, got.Spec); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestServiceColumns(t *testing.T) {
	s := &corev1.Service{Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.0.0.1"}, ExternalIPs: []string{"9.9.9.9"},
		Ports: []corev1.ServicePort{{Port: 80, NodePort: 30000, Protocol: "TCP"}, {Port: 53, Protocol: "UDP"}}, Selector: map[string]string{"a": "b"},
	}}
	s.Name = "web"
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "1.1.1.1"}, {Hostname: "a.example"}}
	var got []any
	for _, column := range service.Columns {
		got = append(got, column.Get(s))
	}
	want := []any{"web", "LoadBalancer", "10.0.0.1", "1.1.1.1,a.example,9.9.9.9", "80:30000/TCP,53/UDP", "<unknown>", "a=b"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
