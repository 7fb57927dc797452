package main

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// workload is one of scheduler_perf's, scaled to any number of nodes. Pods before are there when the measurement begins; the measured
// ones are created as fast as the API server takes them.
type workload struct {
	name     string
	zones    []string // of the nodes, in turn
	before   func(nodes int) int
	pod      func() *corev1.Pod // of those before
	waits    bool               // those before stay pending
	count    func(nodes, pods int) int
	measured func() *corev1.Pod
	// beside runs while the pods are measured.
	beside  func(context.Context, kubernetes.Interface)
	largest int // nodes; 0: any
}

// Each group of pods has a namespace of its own.
const (
	nsBefore   = "sched-0"
	nsMeasured = "sched-1"
	nsBeside   = "beside"
)

func upTo(limit int) func(int) int { return func(nodes int) int { return min(nodes, limit) } }
func asAsked(_, pods int) int      { return pods }

func names() (out []string) {
	for _, w := range workloads {
		out = append(out, w.name)
	}
	return out
}

func find(name string) (workload, bool) {
	for _, w := range workloads {
		if w.name == name {
			return w, true
		}
	}
	return workload{}, false
}

var workloads = []workload{
	// SchedulingBasic
	{name: "basic", before: upTo(1000), pod: small, count: asAsked, measured: small},
	// SchedulingPodAffinity
	{name: "affinity", zones: []string{"zone1"}, before: upTo(1000), pod: affine, count: asAsked, measured: affine},
	// SchedulingPodAntiAffinity: one of these pods fits on each node
	{name: "anti-affinity", before: func(n int) int { return n / 5 }, pod: apart, count: func(n, pods int) int { return min(n*4/5, pods) }, measured: apart},
	// TopologySpreading
	{name: "spread", zones: []string{"moon-1", "moon-2", "moon-3"}, before: upTo(1000), pod: small, count: asAsked, measured: spread},
	// PreemptionBasic, which upstream runs on no more nodes than that
	{name: "preemption", before: func(n int) int { return 4 * n }, pod: low, count: func(n, pods int) int { return min(n, pods) }, measured: high, largest: 1000},
	// SchedulingWithMixedChurn
	{name: "churn", before: upTo(0), pod: small, count: asAsked, measured: small, beside: churn},
	// Unschedulable
	{name: "unschedulable", before: func(n int) int { return n/50 + 1 }, pod: huge, waits: true, count: asAsked, measured: small, beside: unschedulable},
	// SchedulingWhileGated
	{name: "gated", before: func(n int) int { return 2 * n }, pod: gated, waits: true, count: asAsked, measured: light},
}

func pod(labels map[string]string, cpu, memory string) *corev1.Pod {
	requests := corev1.ResourceList{}
	if cpu != "" {
		requests[corev1.ResourceCPU], requests[corev1.ResourceMemory] = resource.MustParse(cpu), resource.MustParse(memory)
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(labels)},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(0)), // nobody is there to end a pod that is preempted
			Containers: []corev1.Container{{
				Name: "pause", Image: "registry.k8s.io/pause:3.10.2", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
				Resources: corev1.ResourceRequirements{Requests: requests},
			}},
		},
	}
}

func small() *corev1.Pod { return pod(nil, "100m", "500Mi") }
func light() *corev1.Pod { return pod(nil, "", "") }
func low() *corev1.Pod   { return pod(nil, "900m", "500Mi") }

func high() *corev1.Pod {
	p := pod(nil, "3000m", "500Mi")
	p.Spec.Priority = new(int32(10))
	return p
}

// huge fits on no node.
func huge() *corev1.Pod {
	p := pod(nil, "9", "500Mi")
	p.Spec.Priority = new(int32(10))
	return p
}

func gated() *corev1.Pod {
	p := light()
	p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "test.k8s.io/hold"}}
	return p
}

func terms(color, key string) []corev1.PodAffinityTerm {
	return []corev1.PodAffinityTerm{{
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": color}}, TopologyKey: key, Namespaces: []string{nsMeasured, nsBefore},
	}}
}

func affine() *corev1.Pod {
	p := pod(map[string]string{"color": "blue"}, "100m", "500Mi")
	p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms("blue", corev1.LabelTopologyZone)}}
	return p
}

func apart() *corev1.Pod {
	p := pod(map[string]string{"color": "green"}, "100m", "500Mi")
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms("green", corev1.LabelHostname)}}
	return p
}

func spread() *corev1.Pod {
	p := pod(map[string]string{"color": "blue"}, "100m", "500Mi")
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": "blue"}},
	}}
	return p
}

func node(index int, zones []string) *corev1.Node {
	name := fmt.Sprintf("scheduler-perf-%05d", index)
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{
			Capacity: corev1.ResourceList{
				corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"),
			},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	n.Status.Allocatable = n.Status.Capacity
	if len(zones) > 0 {
		n.Labels[corev1.LabelTopologyZone] = zones[index%len(zones)]
	}
	return n
}

// churn makes a node without room, a pod that fits nowhere and a service, and deletes them, each second.
func churn(ctx context.Context, client kubernetes.Interface) {
	every(ctx, time.Second, func(i int) {
		n := node(0, nil)
		n.Name, n.Status.Capacity, n.Status.Allocatable = fmt.Sprintf("node-churn-%d", i), corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}, nil
		p, service := huge(), &corev1.Service{Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "foo"}, Ports: []corev1.ServicePort{{Port: 8080, TargetPort: intstr.FromInt32(8080)}},
		}}
		p.Name, service.Name = fmt.Sprintf("pod-churn-%d", i), fmt.Sprintf("service-churn-%d", i)
		core := client.CoreV1()
		// What fails is made again under another name in a second: the load is what counts.
		_, _ = core.Nodes().Create(ctx, n, metav1.CreateOptions{})
		_, _ = core.Pods(nsBeside).Create(ctx, p, metav1.CreateOptions{})
		_, _ = core.Services(nsBeside).Create(ctx, service, metav1.CreateOptions{})
		_ = core.Nodes().Delete(ctx, n.Name, metav1.DeleteOptions{})
		_ = core.Pods(nsBeside).Delete(ctx, p.Name, metav1.DeleteOptions{})
		_ = core.Services(nsBeside).Delete(ctx, service.Name, metav1.DeleteOptions{})
	})
}

// unschedulable makes five pods a second that fit nowhere.
func unschedulable(ctx context.Context, client kubernetes.Interface) {
	every(ctx, 200*time.Millisecond, func(i int) {
		p := huge()
		p.Name = fmt.Sprintf("pod-h-%d", i)
		_, _ = client.CoreV1().Pods(nsBeside).Create(ctx, p, metav1.CreateOptions{}) // as above
	})
}

func every(ctx context.Context, period time.Duration, f func(i int)) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for i := 0; ; i++ {
		f(i)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
