package nodelifecycle

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name string, ready corev1.ConditionStatus, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	}
	for _, key := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
	}
	return n
}

func TestWantedTaints(t *testing.T) {
	cordoned := node("n", corev1.ConditionTrue, "mine")
	cordoned.Spec.Unschedulable = true
	full := node("n", corev1.ConditionTrue)
	full.Status.Conditions = append(full.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue})
	cases := map[string]struct {
		node  *corev1.Node
		leave leaving
		want  []string
	}{
		"ready":                       {node("n", corev1.ConditionTrue), asBefore, nil},
		"taints of others stay":       {cordoned, asBefore, []string{"mine:NoExecute", "node.kubernetes.io/unschedulable:NoSchedule"}},
		"pressure":                    {full, asBefore, []string{"node.kubernetes.io/disk-pressure:NoSchedule"}},
		"not ready, not yet evicting": {node("n", corev1.ConditionFalse), asBefore, []string{"node.kubernetes.io/not-ready:NoSchedule"}},
		"not ready, evicting":         {node("n", corev1.ConditionFalse), evict, []string{"node.kubernetes.io/not-ready:NoExecute", "node.kubernetes.io/not-ready:NoSchedule"}},
		"from not ready to unreachable": {
			node("n", corev1.ConditionUnknown, corev1.TaintNodeNotReady), asBefore,
			[]string{"node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"},
		},
		"all are lost":                 {node("n", corev1.ConditionUnknown, corev1.TaintNodeUnreachable), spare, []string{"node.kubernetes.io/unreachable:NoSchedule"}},
		"back again":                   {node("n", corev1.ConditionTrue, corev1.TaintNodeUnreachable), asBefore, nil},
		"one that never said anything": {node("n", ""), evict, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, taint := range wantedTaints(tc.node, tc.leave, metav1.Now()) {
				got = append(got, fmt.Sprintf("%s:%s", taint.Key, taint.Effect))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("taints (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRateOf(t *testing.T) {
	cases := map[string]struct {
		ready, others int
		allLost       bool
		want          rate.Limit
	}{
		"one of three":               {2, 1, false, normalRate},
		"one of two":                 {1, 1, false, normalRate},
		"most of a small zone":       {2, 3, false, 0},
		"most of a large zone":       {40, 60, false, disruptedRate},
		"a whole zone of several":    {0, 5, false, normalRate},
		"everything, so it is us":    {0, 5, true, 0},
		"two of three lost is bound": {1, 2, false, normalRate},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := rateOf(stateOf(tc.ready, tc.others), tc.ready+tc.others, tc.allLost); got != tc.want {
				t.Errorf("rate = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestZonesAllow(t *testing.T) {
	now := time.Unix(1000, 0)
	lost := []*corev1.Node{node("a", corev1.ConditionUnknown), node("b", corev1.ConditionUnknown)}
	all := append([]*corev1.Node{node("c", corev1.ConditionTrue), node("d", corev1.ConditionTrue)}, lost...)
	z := newZones()
	if got, _ := z.allow(lost[0], all, now); got != evict {
		t.Error("the first node of a zone must be allowed at once")
	}
	if got, wait := z.allow(lost[1], all, now); got != asBefore || wait == 0 {
		t.Errorf("the second one at the same time: %v, %v", got, wait)
	}
	if got, _ := z.allow(lost[1], all, now.Add(retryBlocked)); got != evict {
		t.Error("the second one after its turn must be allowed")
	}
	lost[0].Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}}
	if got, wait := z.allow(lost[0], all, now); got != evict || wait == 0 {
		t.Errorf("one that was decided about: %v, %v", got, wait)
	}
	if got, _ := z.allow(lost[0], lost, now); got != spare {
		t.Errorf("the same when all are lost: %v", got)
	}
}
