package admit

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/kubelet-lite/cgroups"
)

func pod(cpu string, edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}}}}
	if cpu != "" {
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	for _, e := range edits {
		e(p)
	}
	return p
}

func sysctl(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: name, Value: "1"}}}
	}
}

func port(ip string, n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostIP: ip, HostPort: n, Protocol: corev1.ProtocolTCP}}
	}
}

func TestCheck(t *testing.T) {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"disk": "ssd"}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "gone", Effect: corev1.TaintEffectNoExecute}, {Key: "soft", Effect: corev1.TaintEffectNoSchedule}}},
		Status:     corev1.NodeStatus{Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("2")}},
	}
	tolerant := func(p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: "gone", Operator: corev1.TolerationOpExists}}
	}
	memoryShort := func(c corev1.NodeConditionType) bool { return c == corev1.NodeMemoryPressure }
	for name, c := range map[string]struct {
		in   Input
		want *Rejection
	}{
		"fits":          {Input{Pod: pod("2", tolerant)}, nil},
		"fits exactly":  {Input{Pod: pod("1500m", tolerant), Active: []*corev1.Pod{pod("500m")}}, nil},
		"too much CPU":  {Input{Pod: pod("1600m", tolerant), Active: []*corev1.Pod{pod("500m")}}, &Rejection{"OutOfcpu", "Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000"}},
		"too many pods": {Input{Pod: pod("", tolerant), Active: []*corev1.Pod{pod(""), pod("")}}, &Rejection{"OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"}},
		"unknown resource": {Input{Pod: pod("", tolerant, func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["hugepages-2Mi"] = resource.MustParse("2Mi")
		})}, &Rejection{"OutOfhugepages-2Mi", "Node didn't have enough resource: hugepages-2Mi, requested: 2097152, used: 0, capacity: 0"}},
		"device plugin that is not back yet": {Input{Pod: pod("", tolerant, func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
		})}, nil},
		"device from a claim": {Input{Pod: pod("", tolerant, func(p *corev1.Pod) {
			const name = "deviceclass.resource.kubernetes.io/gpu"
			p.Spec.Containers[0].Resources.Requests[name] = resource.MustParse("1")
			p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{RequestMappings: []corev1.ContainerExtendedResourceRequest{{ResourceName: name}}}
		})}, nil},
		"selector matches":      {Input{Pod: pod("", tolerant, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} })}, nil},
		"selector fails":        {Input{Pod: pod("", tolerant, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "hdd"} })}, &Rejection{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}},
		"not tolerated":         {Input{Pod: pod("")}, &Rejection{"TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate: {gone: }"}},
		"static tolerates all":  {Input{Pod: pod(""), Static: true}, nil},
		"port is free":          {Input{Pod: pod("", tolerant, port("", 80)), Active: []*corev1.Pod{pod("", port("", 81))}}, nil},
		"port is taken":         {Input{Pod: pod("", tolerant, port("", 80)), Active: []*corev1.Pod{pod("", port("10.0.0.1", 80))}}, &Rejection{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}},
		"port on other address": {Input{Pod: pod("", tolerant, port("10.0.0.2", 80)), Active: []*corev1.Pod{pod("", port("10.0.0.1", 80))}}, nil},
		"safe sysctl":           {Input{Pod: pod("", tolerant, sysctl("kernel/shm_rmid_forced"))}, nil},
		"unsafe sysctl":         {Input{Pod: pod("", tolerant, sysctl("kernel.msgmax"))}, &Rejection{"SysctlForbidden", `forbidden sysctl: "kernel.msgmax" not allowlisted`}},
		"unsafe but allowed":    {Input{Pod: pod("", tolerant, sysctl("kernel.msgmax")), UnsafeSysctls: []string{"kernel.msg*"}}, nil},
		"host's own sysctl":     {Input{Pod: pod("", tolerant, sysctl("net.ipv4.tcp_syncookies"), func(p *corev1.Pod) { p.Spec.HostNetwork = true })}, &Rejection{"SysctlForbidden", `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net/ipc enabled`}},
		"no AppArmor here": {Input{Pod: pod("", tolerant, func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}}
		})}, &Rejection{"AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"}},
		"best effort under memory pressure": {Input{Pod: pod("", tolerant), Pressure: memoryShort}, &Rejection{"Evicted", "The node had condition: [MemoryPressure]. "}},
		"burstable under memory pressure":   {Input{Pod: pod("1", tolerant), Pressure: memoryShort}, nil},
		"critical under memory pressure":    {Input{Pod: pod("", tolerant, func(p *corev1.Pod) { p.Spec.Priority = new(int32(cgroups.CriticalPriority)) }), Pressure: memoryShort}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c.in.Node = node
			if diff := cmp.Diff(c.want, Check(c.in)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
