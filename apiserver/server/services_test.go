package server_test

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/apiserver/server"
)

// TestServicesAcrossAChangeOfNetworks starts a server with one network, spoils what it has allocated, and starts it again with two.
func TestServicesAcrossAChangeOfNetworks(t *testing.T) {
	dir := t.TempDir()
	with := func(ranges string) *testServer {
		return newServer(t, dir, func(o *server.Options) { o.ServiceClusterIPRange = ranges })
	}
	s := with("10.40.0.0/24")
	single := s.service(t, "single", func(spec *corev1.ServiceSpec) { spec.Type = corev1.ServiceTypeNodePort })
	lost := s.service(t, "lost", nil)
	s.testAllocatorMetrics(t, single)
	if err := s.client.NetworkingV1().IPAddresses().Delete(t.Context(), lost.Spec.ClusterIP, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s = with("10.40.0.0/24,fd00:40::/120")
	eventually(t, "the lost address is allocated again", func() bool {
		address, err := s.client.NetworkingV1().IPAddresses().Get(t.Context(), lost.Spec.ClusterIP, metav1.GetOptions{})
		return err == nil && address.Spec.ParentRef.Name == "lost"
	})
	eventually(t, "an event tells of it", func() bool { return s.told(t, "default", "ClusterIPNotAllocated", "lost") })
	eventually(t, "the default network becomes dual-stack", func() bool {
		cidr := must(s.client.NetworkingV1().ServiceCIDRs().Get(t.Context(), "kubernetes", metav1.GetOptions{}))(t)
		return slices.Equal(cidr.Spec.CIDRs, []string{"10.40.0.0/24", "fd00:40::/120"})
	})
	for name, test := range map[string]func(*testing.T){
		"upgrade":        func(t *testing.T) { s.testFamilies(t, single) },
		"load balancers": s.testLoadBalancers,
		"types":          s.testTypes,
		"dry runs":       s.testDryRuns,
		"second network": s.testSecondNetwork,
	} {
		t.Run(name, test)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s = with("10.41.0.0/24")
	eventually(t, "an event tells of other flags", func() bool { return s.told(t, "default", "KubernetesDefaultServiceCIDRInconsistent", "kubernetes") })
	if ip := s.service(t, "after", nil).Spec.ClusterIP; !strings.HasPrefix(ip, "10.40.0.") && !strings.HasPrefix(ip, "10.42.0.") {
		t.Errorf("an address outside of the networks that stand: %s", ip)
	}
}

// testAllocatorMetrics expects two services and that of the API server itself.
func (s *testServer) testAllocatorMetrics(t *testing.T, taken *corev1.Service) {
	for i := range 2 {
		again := taken.DeepCopy()
		again.ObjectMeta = metav1.ObjectMeta{Name: "again"}
		if i == 0 {
			again.Spec.ClusterIP, again.Spec.ClusterIPs = "", nil
		}
		if _, err := s.client.CoreV1().Services("default").Create(t.Context(), again, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
			t.Errorf("what is taken was given again: %v", err)
		}
	}
	for _, want := range []string{
		`kube_apiserver_clusterip_allocator_allocated_ips{cidr="10.40.0.0/24"} 3`,
		`kube_apiserver_clusterip_allocator_available_ips{cidr="10.40.0.0/24"} 251`,
		`kube_apiserver_clusterip_allocator_allocation_total{cidr="10.40.0.0/24",scope="static"} 1`,
		`kube_apiserver_clusterip_allocator_allocation_total{cidr="10.40.0.0/24",scope="dynamic"} 3`,
		`kube_apiserver_clusterip_allocator_allocation_errors_total{cidr="10.40.0.0/24",scope="static"} 1`,
		`kube_apiserver_clusterip_allocator_allocation_duration_seconds_count{cidr="10.40.0.0/24"} 4`,
		`kube_apiserver_nodeport_allocator_allocated_ports 1`,
		`kube_apiserver_nodeport_allocator_available_ports 2767`,
		`kube_apiserver_nodeport_allocator_allocation_errors_total{scope="static"} `,
		`kube_apiserver_nodeport_allocator_allocation_total{scope="dynamic"} `,
		`apiserver_nodeport_repair_reconcile_errors_total 0`,
	} {
		eventually(t, want, func() bool {
			_, metrics := s.raw(t, http.MethodGet, "/metrics", "", "", "")
			return strings.Contains(metrics, "\n"+want)
		})
	}
}

// service makes a service of one port in the default namespace.
func (s *testServer) service(t *testing.T, name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	t.Helper()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	if change != nil {
		change(&service.Spec)
	}
	return must(s.client.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{}))(t)
}

func (s *testServer) patch(t *testing.T, name, body string) (*corev1.Service, error) {
	t.Helper()
	return s.client.CoreV1().Services("default").Patch(t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
}

func (s *testServer) told(t *testing.T, namespace, reason, about string) bool {
	t.Helper()
	events := must(s.client.EventsV1().Events(namespace).List(t.Context(), metav1.ListOptions{}))(t).Items
	for _, e := range events {
		if e.Reason == reason && e.Regarding.Name == about {
			return true
		}
	}
	return false
}

func (s *testServer) allocated(t *testing.T, ip string) bool {
	t.Helper()
	_, err := s.client.NetworkingV1().IPAddresses().Get(t.Context(), ip, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

func (s *testServer) testFamilies(t *testing.T, single *corev1.Service) {
	up := must(s.patch(t, single.Name, `{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`))(t)
	if len(up.Spec.ClusterIPs) != 2 || up.Spec.ClusterIP != single.Spec.ClusterIP || !netip.MustParsePrefix("fd00:40::/120").Contains(netip.MustParseAddr(up.Spec.ClusterIPs[1])) {
		t.Fatalf("upgraded to %v", up.Spec.ClusterIPs)
	}
	second := up.Spec.ClusterIPs[1]
	if !s.allocated(t, second) {
		t.Error("the second address is not allocated")
	}
	if _, err := s.patch(t, single.Name, `{"spec":{"clusterIPs":["`+up.Spec.ClusterIP+`"],"ipFamilies":["IPv4"]}}`); !apierrors.IsInvalid(err) {
		t.Errorf("the second address given up without the policy: %v", err)
	}
	if _, err := s.patch(t, single.Name, `{"spec":{"ipFamilyPolicy":"SingleStack","ipFamilies":["IPv6"],"clusterIPs":["`+second+`"],"clusterIP":"`+second+`"}}`); !apierrors.IsInvalid(err) {
		t.Errorf("the first address changed: %v", err)
	}
	down := must(s.patch(t, single.Name, `{"spec":{"ipFamilyPolicy":"SingleStack"}}`))(t)
	if len(down.Spec.ClusterIPs) != 1 || len(down.Spec.IPFamilies) != 1 || s.allocated(t, second) || !s.allocated(t, down.Spec.ClusterIP) {
		t.Errorf("downgraded to %v, families %v", down.Spec.ClusterIPs, down.Spec.IPFamilies)
	}
	six := s.service(t, "six", func(spec *corev1.ServiceSpec) { spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} })
	if !strings.HasPrefix(six.Spec.ClusterIP, "fd00:40::") {
		t.Errorf("an IPv6 service has %s", six.Spec.ClusterIP)
	}
	headless := s.service(t, "headless", func(spec *corev1.ServiceSpec) { spec.ClusterIP = corev1.ClusterIPNone })
	if *headless.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyRequireDualStack || len(headless.Spec.IPFamilies) != 2 {
		t.Errorf("headless without selector: %v %v", *headless.Spec.IPFamilyPolicy, headless.Spec.IPFamilies)
	}
}

func (s *testServer) testLoadBalancers(t *testing.T) {
	local := s.service(t, "local", func(spec *corev1.ServiceSpec) {
		spec.Type, spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
	})
	health := local.Spec.HealthCheckNodePort
	if health == 0 || local.Spec.Ports[0].NodePort == 0 || health == local.Spec.Ports[0].NodePort {
		t.Fatalf("ports %d and %d", health, local.Spec.Ports[0].NodePort)
	}
	if _, err := s.patch(t, "local", `{"spec":{"healthCheckNodePort":31999}}`); !apierrors.IsInvalid(err) {
		t.Errorf("the health check port changed: %v", err)
	}
	cluster := must(s.patch(t, "local", `{"spec":{"externalTrafficPolicy":"Cluster"}}`))(t)
	if cluster.Spec.HealthCheckNodePort != 0 {
		t.Errorf("health check port %d without local traffic", cluster.Spec.HealthCheckNodePort)
	}
	s.service(t, "next", func(spec *corev1.ServiceSpec) { // the port is free again
		spec.Type, spec.ExternalTrafficPolicy, spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, health
	})
	bare := s.service(t, "bare", func(spec *corev1.ServiceSpec) {
		spec.Type, spec.AllocateLoadBalancerNodePorts, spec.TrafficDistribution = corev1.ServiceTypeLoadBalancer, new(false), new(corev1.ServiceTrafficDistributionPreferSameZone)
	})
	if bare.Spec.Ports[0].NodePort != 0 || *bare.Spec.TrafficDistribution != corev1.ServiceTrafficDistributionPreferSameZone {
		t.Errorf("node port %d, distribution %v", bare.Spec.Ports[0].NodePort, bare.Spec.TrafficDistribution)
	}
	given := must(s.patch(t, "bare", `{"spec":{"allocateLoadBalancerNodePorts":true}}`))(t)
	if given.Spec.Ports[0].NodePort == 0 {
		t.Error("no node port once they are wanted")
	}
	if _, err := s.patch(t, "bare", `{"spec":{"trafficDistribution":"Anywhere"}}`); !apierrors.IsInvalid(err) {
		t.Errorf("an unknown distribution: %v", err)
	}
}

func (s *testServer) testTypes(t *testing.T) {
	both := s.service(t, "both", func(spec *corev1.ServiceSpec) {
		spec.Type = corev1.ServiceTypeNodePort
		spec.Ports = []corev1.ServicePort{{Name: "tcp", Port: 53, Protocol: corev1.ProtocolTCP}, {Name: "udp", Port: 53, Protocol: corev1.ProtocolUDP}}
	})
	if both.Spec.Ports[0].NodePort != both.Spec.Ports[1].NodePort {
		t.Errorf("two protocols of one port: %v", both.Spec.Ports)
	}
	port, ip := both.Spec.Ports[0].NodePort, both.Spec.ClusterIP
	plain := must(s.patch(t, "both", `{"spec":{"type":"ClusterIP"}}`))(t)
	if plain.Spec.Ports[0].NodePort != 0 || plain.Spec.ClusterIP != ip {
		t.Errorf("now a cluster IP: %+v", plain.Spec)
	}
	s.service(t, "taker", func(spec *corev1.ServiceSpec) { spec.Type, spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, port })
	external := must(s.patch(t, "both", `{"spec":{"type":"ExternalName","externalName":"example.com"}}`))(t)
	if external.Spec.ClusterIP != "" || s.allocated(t, ip) {
		t.Errorf("now external: %+v", external.Spec)
	}
	back := must(s.patch(t, "both", `{"spec":{"type":"ClusterIP","externalName":null}}`))(t)
	if back.Spec.ClusterIP == "" || !s.allocated(t, back.Spec.ClusterIP) {
		t.Errorf("a cluster IP again: %+v", back.Spec)
	}
	if _, err := s.patch(t, "both", `{"spec":{"clusterIP":"None","clusterIPs":["None"]}}`); !apierrors.IsInvalid(err) {
		t.Errorf("headless afterwards: %v", err)
	}
}

func (s *testServer) testDryRuns(t *testing.T) {
	before := len(must(s.client.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{}))(t).Items)
	dry := []string{metav1.DryRunAll}
	ports := []corev1.ServicePort{{Port: 80, NodePort: 31234}}
	for range 2 {
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "dry"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports, IPFamilyPolicy: new(corev1.IPFamilyPolicyPreferDualStack)}}
		service = must(s.client.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{DryRun: dry}))(t)
		if len(service.Spec.ClusterIPs) != 2 {
			t.Errorf("a dry run shows %v", service.Spec.ClusterIPs)
		}
	}
	kept := s.service(t, "kept", func(spec *corev1.ServiceSpec) { spec.Type, spec.Ports = corev1.ServiceTypeNodePort, ports })
	changed := kept.DeepCopy()
	changed.Spec.Type, changed.Spec.Ports[0].NodePort = corev1.ServiceTypeClusterIP, 0
	must(s.client.CoreV1().Services("default").Update(t.Context(), changed, metav1.UpdateOptions{DryRun: dry}))(t)
	if err := s.client.CoreV1().Services("default").Delete(t.Context(), "kept", metav1.DeleteOptions{DryRun: dry}); err != nil {
		t.Fatal(err)
	}
	clash := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "clash"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports}}
	if _, err := s.client.CoreV1().Services("default").Create(t.Context(), clash, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a dry run gave a port back: %v", err)
	}
	if after := len(must(s.client.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{}))(t).Items); after != before+1 {
		t.Errorf("%d addresses before, %d after one service", before, after)
	}
}

// testSecondNetwork fills a small network and adds another.
func (s *testServer) testSecondNetwork(t *testing.T) {
	ctx := t.Context()
	outside := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "outside"}, Spec: corev1.ServiceSpec{ClusterIP: "10.42.0.7", Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := s.client.CoreV1().Services("default").Create(ctx, outside, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "10.42.0.7") {
		t.Errorf("an address of no network: %v", err)
	}
	cidr := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "second"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.42.0.0/28"}}}
	cidr = must(s.client.NetworkingV1().ServiceCIDRs().Create(ctx, cidr, metav1.CreateOptions{}))(t)
	cidr.Status.Conditions = []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Reason: "Ready", LastTransitionTime: metav1.Now()}}
	must(s.client.NetworkingV1().ServiceCIDRs().UpdateStatus(ctx, cidr, metav1.UpdateOptions{}))(t)
	eventually(t, "the second network counts", func() bool {
		_, err := s.client.CoreV1().Services("default").Create(ctx, outside, metav1.CreateOptions{})
		return err == nil
	})
	if _, err := s.client.NetworkingV1().ServiceCIDRs().Patch(ctx, "second", types.MergePatchType, []byte(`{"spec":{"cidrs":["10.43.0.0/28"]}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a network changed: %v", err)
	}
	if _, err := s.client.NetworkingV1().IPAddresses().Patch(ctx, "10.42.0.7", types.MergePatchType, []byte(`{"spec":{"parentRef":{"name":"x"}}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("the owner of an address changed: %v", err)
	}
}
