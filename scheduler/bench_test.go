package scheduler

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/profile"
)

// harness runs scheduling cycles without an API server: what it places counts as bound at once.
type harness struct {
	tb testing.TB
	*Scheduler
}

func newHarness(tb testing.TB, conf *configv1.KubeSchedulerConfiguration, extra ...profile.Plugin) *harness {
	tb.Helper()
	if conf == nil {
		conf = &configv1.KubeSchedulerConfiguration{}
	}
	s, err := newScheduler(tb.Context(), fake.NewClientset(), nil, conf, extra)
	if err != nil {
		tb.Fatal(err)
	}
	return &harness{tb, s}
}

func info(tb testing.TB, pod *corev1.Pod) *nodeinfo.PodInfo {
	tb.Helper()
	i, err := nodeinfo.NewPodInfo(pod)
	if err != nil {
		tb.Fatal(err)
	}
	return i
}

// schedule takes the next pod from the queue and returns its node, or why it got none.
func (h *harness) schedule() (*corev1.Pod, string, *failure) {
	p := h.queue.Pop()
	pod, prof := p.Pod(), h.profiles[p.Pod().Spec.SchedulerName]
	h.cache.UpdateSnapshot(h.snapshot)
	node, _, failed := h.decide(h.tb.Context(), prof, p.PodInfo)
	if failed != nil {
		h.queue.Done(pod.UID)
		return pod, "", failed
	}
	bound := *pod
	bound.Spec.NodeName = node
	if err := h.cache.Assume(p.WithPod(&bound), node); err != nil {
		h.tb.Fatal(err)
	}
	h.queue.Nominator.DeleteNominatedPodIfExists(pod)
	handlers{h.Scheduler, h.tb.Context()}.bound(&bound)
	h.queue.Done(pod.UID)
	return &bound, node, nil
}

// perfNode and perfPod have the sizes of upstream's scheduler_perf.
func perfNode(i int) *corev1.Node {
	name := fmt.Sprint("node-", i)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone", i%3),
		}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
}

func perfPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	return testPod(name, append([]func(*corev1.Pod){func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("50Mi"),
		}
	}}, change...)...)
}

// workload is one of the shapes of scheduler_perf: what is there before, and what each pod of the measured part is like.
type workload struct {
	name string
	// initial are the pods per node that run before.
	initial int
	low     func(*corev1.Pod)
	pod     []func(*corev1.Pod)
	fails   bool
	preempt bool
	churn   bool
}

func workloads() []workload {
	green := labelled("color", "green")
	return []workload{
		{name: "basic", initial: 2},
		{name: "nodeAffinity", initial: 2, pod: []func(*corev1.Pod){zoneAffinity("zone0", "zone1")}},
		{name: "podAffinity", initial: 2, pod: []func(*corev1.Pod){green, colorAffinity("green", corev1.LabelTopologyZone)}},
		{name: "podAntiAffinity", initial: 2, pod: []func(*corev1.Pod){green, colorAntiAffinity("blue", corev1.LabelHostname)}},
		{name: "zoneSpread", initial: 2, pod: []func(*corev1.Pod){green, spread(corev1.LabelTopologyZone, 5, corev1.DoNotSchedule)}},
		{name: "softSpread", initial: 2, pod: []func(*corev1.Pod){green, spread(corev1.LabelTopologyZone, 5, corev1.ScheduleAnyway)}},
		{name: "preemption", initial: 4, low: cpu("900m"), pod: []func(*corev1.Pod){prio(10), cpu("3")}, preempt: true},
		{name: "churn", initial: 2, churn: true},
		{name: "unschedulable", initial: 2, pod: []func(*corev1.Pod){cpu("9")}, fails: true},
	}
}

func zoneAffinity(zones ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
				{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: zones},
			}}},
		}}}
	}
}

func colorTerm(color, key string) []corev1.PodAffinityTerm {
	return []corev1.PodAffinityTerm{{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": color}}, TopologyKey: key}}
}

func colorAffinity(color, key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: colorTerm(color, key)}}
	}
}

func colorAntiAffinity(color, key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: colorTerm(color, key)}}
	}
}

func (h *harness) fill(w workload, nodes int) {
	for i := range nodes {
		node := perfNode(i)
		h.cache.SetNode(node)
		for j := range w.initial {
			pod := perfPod(fmt.Sprintf("init-%d-%d", i, j))
			if w.low != nil {
				w.low(pod)
			}
			pod.Spec.NodeName = node.Name
			h.cache.SetPod(info(h.tb, pod))
		}
	}
}

// BenchmarkCycle measures everything between the queue and the binding, per pod: `go test -bench Cycle -benchtime 2000x`.
func BenchmarkCycle(b *testing.B) {
	for _, w := range workloads() {
		for _, nodes := range []int{100, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/%d", w.name, nodes), func(b *testing.B) { benchmarkWorkload(b, w, nodes) })
		}
	}
}

func benchmarkWorkload(b *testing.B, w workload, nodes int) {
	h := newHarness(b, nil)
	h.fill(w, nodes)
	pods := make([]*corev1.Pod, b.N)
	for i := range pods {
		pods[i] = perfPod(fmt.Sprint("pod-", i), w.pod...)
	}
	// The first of a kind may be anywhere; the measured ones look for it.
	h.queue.Add(b.Context(), info(b, perfPod("first", w.pod...)))
	h.schedule()
	cpuBefore := cpuTime()
	b.ResetTimer()
	var placed []*corev1.Pod
	for i, pod := range pods {
		h.queue.Add(b.Context(), info(b, pod))
		bound, node, failed := h.schedule()
		switch {
		case w.preempt && failed != nil && failed.nominating != nil && failed.nominating.NominatedNodeName != "":
		case (failed != nil) != w.fails && !w.preempt:
			b.Fatalf("pod %d: node %q, %+v", i, node, failed)
		case w.churn:
			placed = append(placed, bound)
			if len(placed) > 100 {
				handlers{h.Scheduler, b.Context()}.podDeleted(placed[0])
				placed = placed[1:]
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime()-cpuBefore)/float64(b.N)/1000, "cpu-µs/pod")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
