package admit

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"keelson.dev/kubelet-lite/cgroups"
)

func TestVictims(t *testing.T) {
	priority := func(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }
	named := func(name, cpu string, class corev1.PodQOSClass, edits ...func(*corev1.Pod)) *corev1.Pod {
		p := pod(cpu, append(edits, func(p *corev1.Pod) { p.Name, p.Status.QOSClass = name, class })...)
		return p
	}
	memory := func(text string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests[corev1.ResourceMemory] = resource.MustParse(text)
		}
	}
	critical := priority(cgroups.CriticalPriority)
	g, b, e := corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort
	for name, c := range map[string]struct {
		pod    *corev1.Pod
		static bool
		active []*corev1.Pod
		pods   string // that the node takes; default 10
		want   []string
		short  corev1.ResourceName
	}{
		"fits":                        {pod: pod("2", critical)},
		"not critical":                {pod: pod("2", priority(cgroups.CriticalPriority-1)), active: []*corev1.Pod{named("a", "1", b)}},
		"critical":                    {pod: pod("2", critical), active: []*corev1.Pod{named("a", "1", b)}, want: []string{"a"}, short: "cpu"},
		"static":                      {pod: pod("2"), static: true, active: []*corev1.Pod{named("a", "1", b)}, want: []string{"a"}, short: "cpu"},
		"nearest":                     {pod: pod("1", critical), active: []*corev1.Pod{named("a", "100m", b), named("b", "700m", b), named("c", "500m", b), named("d", "700m", b, memory("1"))}, want: []string{"b", "c"}, short: "cpu"},
		"smallest that does":          {pod: pod("1", critical), active: []*corev1.Pod{named("a", "1200m", b, memory("2Mi")), named("b", "300m", b, memory("1Mi")), named("c", "500m", b)}, want: []string{"a"}, short: "cpu"},
		"lower class first":           {pod: pod("1", critical), active: []*corev1.Pod{named("a", "1", g), named("b", "1", b)}, want: []string{"b"}, short: "cpu"},
		"higher class if it must":     {pod: pod("2", critical), active: []*corev1.Pod{named("a", "1", g), named("b", "1", b)}, want: []string{"a", "b"}, short: "cpu"},
		"not others that count":       {pod: pod("1", critical), active: []*corev1.Pod{named("a", "1500m", b, critical), named("b", "500m", b)}},
		"those that count less":       {pod: pod("1", priority(cgroups.CriticalPriority+1)), active: []*corev1.Pod{named("a", "1500m", b, critical)}, want: []string{"a"}, short: "cpu"},
		"more than the node has":      {pod: pod("3", critical), active: []*corev1.Pod{named("a", "1", b)}},
		"number of pods":              {pod: pod("", critical), pods: "2", active: []*corev1.Pod{named("a", "1", b), named("b", "", e)}, want: []string{"b"}, short: "pods"},
		"kept away by something else": {pod: pod("2", critical, sysctl("kernel.bad")), active: []*corev1.Pod{named("a", "1", b)}},
	} {
		t.Run(name, func(t *testing.T) {
			pods := "10"
			if c.pods != "" {
				pods = c.pods
			}
			node := &corev1.Node{Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi"), "pods": resource.MustParse(pods)}}}
			victims, short := Victims(Input{Pod: c.pod, Static: c.static, Node: node, Active: c.active})
			var got []string
			for _, p := range victims {
				got = append(got, p.Name)
			}
			if diff := cmp.Diff(c.want, got); diff != "" || short != c.short {
				t.Errorf("short of %q, want %q: %s", short, c.short, diff)
			}
		})
	}
}
