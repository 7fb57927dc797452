package proxier

import (
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"keelson.dev/proxy-lite/internal/testnet"
)

func policyPod(name, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{NodeName: "here", Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{
			{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP},
		}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip}}},
	}
}

func networkPolicy(name, app string, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: spec}
}

func fromApp(app string) []networkingv1.NetworkPolicyPeer {
	return []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}
}

func TestNetworkPolicy(t *testing.T) {
	n := testnet.New(t)
	outside, nodeAddr := n.Outside("192.168.50.9")
	outside.ServeTCP(9000, "outside")
	n.Node.ServeTCP(9001, "node")
	addrs := map[string]string{"web": "10.244.7.2", "friend": "10.244.7.3", "stranger": "10.244.7.4"}
	pods := map[string]*testnet.Host{}
	for name, ip := range addrs {
		pods[name] = n.Pod(ip)
		pods[name].ServeTCP(8080, name)
		pods[name].ServeTCP(8081, name)
	}
	node := testNode(nodeAddr.String())
	node.Spec.PodCIDRs = []string{"10.244.7.0/24"}
	client := start(t, n, node, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"kubernetes.io/metadata.name": "default"}}},
		policyPod("web", addrs["web"]), policyPod("friend", addrs["friend"]), policyPod("stranger", addrs["stranger"]),
		testService(), testSlice(addrs["web"]))

	web, webOther := netip.MustParseAddrPort("10.244.7.2:8080"), netip.MustParseAddrPort("10.244.7.2:8081")
	reaches := func(from *testnet.Host, to netip.AddrPort) bool { return from.Ask("tcp4", to).Err == nil }
	expect := func(what string, from *testnet.Host, to netip.AddrPort, want bool) {
		t.Helper()
		if want { // on a busy machine an answer may take longer than a client waits
			eventually(t, what, func() bool { return reaches(from, to) })
		} else if reaches(from, to) {
			t.Errorf("%s got through", what)
		}
	}
	create := func(p *networkingv1.NetworkPolicy) {
		t.Helper()
		if _, err := client.NetworkingV1().NetworkPolicies("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	expect("without policies", pods["stranger"], web, true)

	named := intstr.FromString("web")
	create(networkPolicy("ingress", "web", networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{
			From: fromApp("friend"), Ports: []networkingv1.NetworkPolicyPort{{Port: &named}},
		}},
	}))
	eventually(t, "the stranger is refused", func() bool { return !reaches(pods["stranger"], web) })
	expect("an allowed pod", pods["friend"], web, true)
	expect("an allowed pod on another port", pods["friend"], webOther, false)
	expect("an allowed pod through the service", pods["friend"], netip.MustParseAddrPort("10.96.0.50:80"), true)
	expect("a stranger through the service", pods["stranger"], netip.MustParseAddrPort("10.96.0.50:80"), false)
	expect("the node itself (a probe)", n.Node, web, true)
	expect("outside", outside, web, false)
	expect("a pod without policies", pods["web"], netip.MustParseAddrPort("10.244.7.4:8080"), true)
	expect("a pod without policies from outside", outside, netip.MustParseAddrPort("10.244.7.4:8080"), true)

	port := intstr.FromInt32(9000)
	create(networkPolicy("egress", "friend", networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress: []networkingv1.NetworkPolicyEgressRule{
			{
				To:    []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "192.168.0.0/16", Except: []string{"192.168.50.0/29"}}}},
				Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
			},
		},
	}))
	eventually(t, "the friend's egress is limited", func() bool { return !reaches(pods["friend"], web) })
	expect("an allowed block", pods["friend"], netip.AddrPortFrom(outside.Addr, 9000), true)
	expect("the node, which is an exception of the block", pods["friend"], netip.AddrPortFrom(nodeAddr, 9001), false)
	expect("the node from a pod without policies", pods["stranger"], netip.AddrPortFrom(nodeAddr, 9001), true)

	// A pod whose address is not known yet is held back; when it is, it may talk.
	early := n.Pod("10.244.7.9")
	expect("a pod that the API does not know", early, netip.MustParseAddrPort("10.244.7.4:8080"), false)
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), policyPod("early", "10.244.7.9"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "the new pod is let through", func() bool { return reaches(early, netip.MustParseAddrPort("10.244.7.4:8080")) })
	t.Logf("a new pod was let through after %v", time.Since(began))

	for _, name := range []string{"ingress", "egress"} {
		if err := client.NetworkingV1().NetworkPolicies("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "without policies all is open again", func() bool { return reaches(pods["stranger"], web) })
}
