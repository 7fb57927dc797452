package daemonset

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"keelson.dev/controllers/revision"
)

var now = time.Unix(100000, 0)

func newSet(surge, unavailable int32) *appsv1.DaemonSet {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "ds", UID: "ds"}}
	set.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{
		Type: appsv1.RollingUpdateDaemonSetStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDaemonSet{
			MaxSurge: new(intstr.FromInt32(surge)), MaxUnavailable: new(intstr.FromInt32(unavailable)),
		},
	}
	return set
}

// newPods reads "node:state@hash", where the state is R (ready), U (running, not ready), F (failed) or T (terminating).
func newPods(words ...string) []*corev1.Pod {
	var pods []*corev1.Pod
	for i, word := range words {
		node, rest, _ := strings.Cut(word, ":")
		state, hash, _ := strings.Cut(rest, "@")
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("p%d", i), UID: types.UID(word), Labels: map[string]string{revision.HashLabel: hash},
			CreationTimestamp: metav1.NewTime(now.Add(time.Duration(i-100) * time.Second)),
		}}
		pod.Spec.NodeName = node
		pod.Status.Phase = corev1.PodRunning
		switch state {
		case "R":
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
		case "F":
			pod.Status.Phase = corev1.PodFailed
		case "T":
			pod.DeletionTimestamp = new(metav1.NewTime(now))
		}
		pods = append(pods, pod)
	}
	return pods
}

func newNodes(words ...string) []*corev1.Node {
	var nodes []*corev1.Node
	for _, word := range words {
		name, taint, tainted := strings.Cut(word, "!")
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if tainted {
			node.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffect(taint)}}
		}
		nodes = append(nodes, node)
	}
	return nodes
}

func describe(p placement) []string {
	var out []string
	for _, node := range p.create {
		out = append(out, "create on "+node)
	}
	for _, pod := range p.remove {
		out = append(out, "remove "+string(pod.UID))
	}
	return out
}

func TestPlan(t *testing.T) {
	cases := map[string]struct {
		set       *appsv1.DaemonSet
		nodes     []*corev1.Node
		pods      []*corev1.Pod
		placement []string
		update    []string
	}{
		"one on each":                     {newSet(0, 1), newNodes("a", "b"), newPods("a:R@new"), []string{"create on b"}, nil},
		"not where it is not tolerated":   {newSet(0, 1), newNodes("a!NoSchedule", "b!NoExecute"), nil, nil, nil},
		"stays under NoSchedule":          {newSet(0, 1), newNodes("a!NoSchedule"), newPods("a:R@new"), nil, nil},
		"leaves under NoExecute":          {newSet(0, 1), newNodes("a!NoExecute"), newPods("a:R@new"), []string{"remove a:R@new"}, nil},
		"the younger of two goes":         {newSet(0, 1), newNodes("a"), newPods("a:R@new", "a:R@new2"), []string{"remove a:R@new2"}, nil},
		"a failed one goes":               {newSet(0, 1), newNodes("a"), newPods("a:F@new"), []string{"remove a:F@new"}, nil},
		"waits for a terminating one":     {newSet(0, 1), newNodes("a"), newPods("a:T@old"), nil, nil},
		"replaces one at a time":          {newSet(0, 1), newNodes("a", "b"), newPods("a:R@old", "b:R@old"), nil, []string{"remove a:R@old"}},
		"not while another is away":       {newSet(0, 1), newNodes("a", "b"), newPods("a:R@old", "b:U@new"), nil, nil},
		"broken old ones at once":         {newSet(0, 1), newNodes("a", "b"), newPods("a:U@old", "b:R@old"), nil, []string{"remove a:U@old"}},
		"surge starts beside":             {newSet(1, 0), newNodes("a", "b"), newPods("a:R@old", "b:R@old"), nil, []string{"create on a"}},
		"surge waits for the new one":     {newSet(1, 0), newNodes("a", "b"), newPods("a:R@old", "a:U@new", "b:R@old"), nil, nil},
		"surge removes the old one then":  {newSet(1, 0), newNodes("a"), newPods("a:R@old", "a:R@new"), []string{"remove a:R@old"}, nil},
		"surge removes a broken old one":  {newSet(1, 0), newNodes("a"), newPods("a:U@old", "a:U@new"), []string{"remove a:U@old"}, nil},
		"surge leaves a tainted node":     {newSet(1, 0), newNodes("a!NoSchedule", "b"), newPods("a:R@old", "b:R@new"), nil, []string{"remove a:R@old"}},
		"surge leaves it with a spare":    {newSet(1, 0), newNodes("a!NoSchedule", "b"), newPods("a:R@old", "b:U@new"), nil, nil},
		"surge leaves it when broken":     {newSet(1, 0), newNodes("a!NoSchedule", "b"), newPods("a:U@old", "b:U@new"), nil, []string{"remove a:U@old"}},
		"surge leaves none in its place":  {newSet(1, 0), newNodes("a!NoSchedule", "b", "c"), newPods("a:R@old", "b:R@new", "c:U@new"), nil, nil},
		"none for a node that is no more": {newSet(0, 1), newNodes("a"), newPods("a:R@new", "gone:R@new"), nil, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v := newView(tc.set, tc.pods, tc.nodes, "new", now)
			if diff := cmp.Diff(tc.placement, describe(planPlacement(v))); diff != "" {
				t.Errorf("placement (-want +got):\n%s", diff)
			}
			if len(tc.placement) > 0 {
				return
			}
			if diff := cmp.Diff(tc.update, describe(planUpdate(v))); diff != "" {
				t.Errorf("update (-want +got):\n%s", diff)
			}
		})
	}
}
