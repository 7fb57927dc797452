package scheduler

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/profile"
)

// even is a third party's plugin, written against the framework alone: it lets pods onto nodes with an even last digit only and
// prefers the one that the pod names.
type even struct{ filtered, scored int }

func (*even) Name() string { return "Even" }

func (p *even) Filter(_ context.Context, _ fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	p.filtered++
	if name := node.Node().Name; (name[len(name)-1]-'0')%2 != 0 {
		return fwk.NewStatus(fwk.Unschedulable, "node(s) were odd")
	}
	return nil
}

func (p *even) Score(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	p.scored++
	if node.Node().Name == pod.Annotations["favourite"] {
		return fwk.MaxScore, nil
	}
	return 0, nil
}

func (*even) ScoreExtensions() fwk.ScoreExtensions { return nil }

// TestThirdPartyPlugin has such a plugin decide together with those that work on columns.
func TestThirdPartyPlugin(t *testing.T) {
	p := &even{}
	conf := &configv1.KubeSchedulerConfiguration{Profiles: []configv1.KubeSchedulerProfile{{Plugins: &configv1.Plugins{
		MultiPoint: configv1.PluginSet{Enabled: []configv1.Plugin{{Name: "Even", Weight: new(int32(10))}}},
	}}}}
	h := newHarness(t, conf, profile.Plugin{Name: "Even", New: func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) { return p, nil }})
	for i := range 10 {
		n := perfNode(i)
		n.Spec.Unschedulable = i >= 6
		h.cache.SetNode(n)
	}
	place := func(pod *corev1.Pod) (string, *failure) {
		h.queue.Add(t.Context(), info(t, pod))
		_, node, failed := h.schedule()
		return node, failed
	}
	if node, failed := place(perfPod("p1", func(p *corev1.Pod) { p.Annotations = map[string]string{"favourite": "node-4"} })); failed != nil || node != "node-4" {
		t.Errorf("the pod is on %q (%+v), want node-4, which the plugin favours", node, failed)
	}
	if p.filtered != 6 || p.scored != 3 {
		t.Errorf("the plugin filtered %d and scored %d nodes, want the 6 that are schedulable and the 3 even ones of them", p.filtered, p.scored)
	}
	state := profile.NewState()
	for !state.Sampled().ShouldRecordPluginMetrics() { // until chance picks the attempt
	}
	if _, _, err := h.feasibleNodes(t.Context(), h.profiles[corev1.DefaultSchedulerName], state, perfPod("p3")); err != nil {
		t.Error(err)
	}
	metrics := metricsOf(h.Scheduler)
	for _, want := range []string{
		`scheduler_plugin_evaluation_total{extension_point="Filter",plugin="Even",profile="default-scheduler"} 12`,
		`scheduler_plugin_evaluation_total{extension_point="Score",plugin="Even",profile="default-scheduler"} 3`,
		`scheduler_plugin_execution_duration_seconds_count{extension_point="Filter",plugin="Even",status="Unschedulable"} 3`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	_, failed := place(perfPod("p2", selector(corev1.LabelHostname, "node-3")))
	if failed == nil || !strings.HasPrefix(failed.message, "0/10 nodes are available: 1 node(s) were odd, ") {
		t.Errorf("the pod that asks for an odd node: %+v", failed)
	}
}

// TestSeveralProfiles has two profiles with other weights and arguments share the nodes.
func TestSeveralProfiles(t *testing.T) {
	most := &configv1.NodeResourcesFitArgs{ScoringStrategy: &configv1.ScoringStrategy{Type: configv1.MostAllocated}}
	conf := &configv1.KubeSchedulerConfiguration{Profiles: []configv1.KubeSchedulerProfile{
		{SchedulerName: new("spread")},
		{
			SchedulerName: new("pack"),
			PluginConfig: []configv1.PluginConfig{
				{Name: "NodeResourcesFit", Args: runtime.RawExtension{Object: most}},
				{Name: "NodeAffinity", Args: runtime.RawExtension{Object: &configv1.NodeAffinityArgs{AddedAffinity: &corev1.NodeAffinity{
					RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
						MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"zone0"}}},
					}}},
				}}}},
			},
		},
	}}
	h := newHarness(t, conf)
	for i := range 6 { // zone0 has node-0 and node-3
		h.cache.SetNode(perfNode(i))
	}
	on := map[string]int{}
	for i := range 8 {
		pod := perfPod("p"+string(rune('0'+i)), cpu("500m"), func(p *corev1.Pod) { p.Spec.SchedulerName = []string{"pack", "spread"}[i/4] })
		h.queue.Add(t.Context(), info(t, pod))
		_, node, failed := h.schedule()
		if failed != nil {
			t.Fatal(failed.message)
		}
		if i < 4 {
			on[node]++
		} else if on[node] > 0 {
			t.Errorf("the profile that spreads took the fullest node")
		}
	}
	if len(on) != 1 || on["node-0"]+on["node-3"] != 4 {
		t.Errorf("the profile that packs used %v, want one node of zone0", on)
	}
}

// TestNominatedRoomIsKept places pods of lower priority beside the room that waits for a nominated pod.
func TestNominatedRoomIsKept(t *testing.T) {
	h := newHarness(t, nil)
	h.cache.SetNode(perfNode(0))
	h.cache.SetNode(perfNode(1))
	nominee := perfPod("nominee", cpu("3"), prio(10))
	nominee.Status.NominatedNodeName = "node-0"
	nominee.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/later"}}
	h.queue.Add(t.Context(), info(t, nominee))
	for _, want := range []string{"node-1", ""} {
		h.queue.Add(t.Context(), info(t, perfPod("low"+want, cpu("2500m"))))
		if _, node, _ := h.schedule(); node != want {
			t.Errorf("the pod is on %q, want %q", node, want)
		}
	}
}
