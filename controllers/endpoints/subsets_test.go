package endpoints

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(ip string, ready bool, port int32) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: ip},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: port, Protocol: corev1.ProtocolTCP}}}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
		},
	}
}

func TestSubsets(t *testing.T) {
	byName := []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("web"), Protocol: corev1.ProtocolTCP}}
	finished := pod("10.0.0.9", false, 1)
	finished.Status.Phase = corev1.PodSucceeded
	finished.Spec.RestartPolicy = corev1.RestartPolicyNever
	cases := map[string]struct {
		spec corev1.ServiceSpec
		pods []*corev1.Pod
		want []string // port: ready addresses / others
	}{
		"no pods":                        {corev1.ServiceSpec{Ports: byName}, nil, nil},
		"sorted by address":              {corev1.ServiceSpec{Ports: byName}, []*corev1.Pod{pod("10.0.0.2", true, 8080), pod("10.0.0.1", true, 8080)}, []string{"[8080]: [10.0.0.1 10.0.0.2] / []"}},
		"not ready":                      {corev1.ServiceSpec{Ports: byName}, []*corev1.Pod{pod("10.0.0.1", true, 8080), pod("10.0.0.2", false, 8080)}, []string{"[8080]: [10.0.0.1] / [10.0.0.2]"}},
		"published all the same":         {corev1.ServiceSpec{Ports: byName, PublishNotReadyAddresses: true}, []*corev1.Pod{pod("10.0.0.2", false, 8080)}, []string{"[8080]: [10.0.0.2] / []"}},
		"by port":                        {corev1.ServiceSpec{Ports: byName}, []*corev1.Pod{pod("10.0.0.1", true, 8081), pod("10.0.0.2", true, 8080)}, []string{"[8080]: [10.0.0.2] / []", "[8081]: [10.0.0.1] / []"}},
		"other family":                   {corev1.ServiceSpec{Ports: byName, IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}}, []*corev1.Pod{pod("10.0.0.1", true, 8080)}, nil},
		"no such port":                   {corev1.ServiceSpec{Ports: []corev1.ServicePort{{TargetPort: intstr.FromString("dns")}}}, []*corev1.Pod{pod("10.0.0.1", true, 8080)}, nil},
		"headless, no ports":             {corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}, []*corev1.Pod{pod("10.0.0.1", true, 8080)}, []string{"[]: [10.0.0.1] / []"}},
		"finished pods are no endpoints": {corev1.ServiceSpec{Ports: byName}, []*corev1.Pod{finished}, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, s := range subsets(&corev1.Service{Spec: tc.spec}, tc.pods) {
				ports := []int32{}
				for _, p := range s.Ports {
					ports = append(ports, p.Port)
				}
				got = append(got, fmt.Sprintf("%v: %v / %v", ports, ips(s.Addresses), ips(s.NotReadyAddresses)))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func ips(addresses []corev1.EndpointAddress) []string {
	out := []string{}
	for _, a := range addresses {
		out = append(out, a.IP)
	}
	return out
}

func TestTruncate(t *testing.T) {
	cases := map[string]struct{ ready, others, wantReady, wantOthers int }{
		"fits":                 {400, 600, 400, 600},
		"others go first":      {900, 200, 900, 100},
		"then ready ones":      {1200, 50, 1000, 0},
		"exactly one too many": {1000, 1, 1000, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := []corev1.EndpointSubset{{Addresses: make([]corev1.EndpointAddress, tc.ready), NotReadyAddresses: make([]corev1.EndpointAddress, tc.others)}}
			cut := truncate(s)
			if len(s[0].Addresses) != tc.wantReady || len(s[0].NotReadyAddresses) != tc.wantOthers || cut != (tc.ready+tc.others > maxAddresses) {
				t.Errorf("%d ready, %d others, cut %v", len(s[0].Addresses), len(s[0].NotReadyAddresses), cut)
			}
		})
	}
}
