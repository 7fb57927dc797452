package replicaset

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"keelson.dev/controllers/podcontrol"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

type option func(*corev1.Pod)

func newPod(name string, options ...option) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	for _, o := range options {
		o(pod)
	}
	return pod
}

func on(node string) option { return func(p *corev1.Pod) { p.Spec.NodeName = node } }
func running(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }
func cost(c string) option {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: c} }
}

func ready(ago time.Duration) option {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-ago))}}
	}
}

func restarted(n int32) option {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
}

func TestPlanReplicas(t *testing.T) {
	up := []option{on("n1"), running, ready(time.Minute)}
	cases := map[string]struct {
		want    *int32
		pods    []*corev1.Pod
		related []*corev1.Pod
		create  int
		remove  []string
	}{
		"enough":                   {want: ptr.To[int32](1), pods: []*corev1.Pod{newPod("a")}},
		"default is one":           {create: 1},
		"too few":                  {want: ptr.To[int32](3), pods: []*corev1.Pod{newPod("a")}, create: 2},
		"never more than a burst":  {want: ptr.To[int32](10000), create: podcontrol.Burst},
		"without a node first":     {want: ptr.To[int32](1), pods: []*corev1.Pod{newPod("a", up...), newPod("b")}, remove: []string{"b"}},
		"pending before running":   {want: ptr.To[int32](1), pods: []*corev1.Pod{newPod("a", on("n"), running), newPod("b", on("n"))}, remove: []string{"b"}},
		"unready before ready":     {want: ptr.To[int32](1), pods: []*corev1.Pod{newPod("a", up...), newPod("b", on("n"), running)}, remove: []string{"b"}},
		"cheap before dear":        {want: ptr.To[int32](1), pods: []*corev1.Pod{newPod("a", append(up, cost("10"))...), newPod("b", append(up, cost("-1"))...)}, remove: []string{"b"}},
		"crowded node first":       {want: ptr.To[int32](1), pods: []*corev1.Pod{newPod("a", up...), newPod("b", on("n2"), running, ready(time.Hour))}, related: []*corev1.Pod{newPod("x", on("n2")), newPod("y", on("n2")), newPod("z", on("n1"))}, remove: []string{"b"}},
		"ready for a shorter time": {want: ptr.To[int32](1), pods: []*corev1.Pod{newPod("a", on("n1"), running, ready(time.Hour)), newPod("b", on("n1"), running, ready(time.Second))}, remove: []string{"b"}},
		"about as long: by uid":    {want: ptr.To[int32](1), pods: []*corev1.Pod{newPod("b", on("n1"), running, ready(61*time.Minute)), newPod("a", on("n1"), running, ready(62*time.Minute))}, remove: []string{"a"}},
		"more restarts first":      {want: ptr.To[int32](1), pods: []*corev1.Pod{newPod("a", append(up, restarted(1))...), newPod("b", append(up, restarted(5))...)}, remove: []string{"b"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			set := &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: tc.want}}
			got := planReplicas(set, tc.pods, func() []*corev1.Pod { return tc.related }, now)
			var removed []string
			for _, pod := range got.remove {
				removed = append(removed, pod.Name)
			}
			if got.create != tc.create {
				t.Errorf("create = %d, want %d", got.create, tc.create)
			}
			if diff := cmp.Diff(tc.remove, removed); diff != "" {
				t.Errorf("remove (-want +got):\n%s", diff)
			}
		})
	}
}
