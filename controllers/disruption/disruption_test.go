package disruption

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var now = time.Unix(1_000_000, 0)

func pod(name string, ready corev1.ConditionStatus, conditions ...corev1.PodCondition) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{
		Phase: corev1.PodRunning, Conditions: append(conditions, corev1.PodCondition{Type: corev1.PodReady, Status: ready}),
	}}
}

func deleted(p *corev1.Pod) *corev1.Pod {
	p.DeletionTimestamp = &metav1.Time{Time: now}
	return p
}

func TestStatus(t *testing.T) {
	evicted := func(ago time.Duration) map[string]metav1.Time {
		return map[string]metav1.Time{"a": metav1.NewTime(now.Add(-ago))}
	}
	type want struct {
		Healthy, Allowed int32
		Disrupted        int
		Again            time.Duration
	}
	cases := map[string]struct {
		pods              []*corev1.Pod
		disrupted         map[string]metav1.Time
		expected, desired int32
		want              want
	}{
		"one to spare":            {[]*corev1.Pod{pod("a", "True"), pod("b", "True")}, nil, 2, 1, want{Healthy: 2, Allowed: 1}},
		"none to spare":           {[]*corev1.Pod{pod("a", "True"), pod("b", "False")}, nil, 2, 1, want{Healthy: 1}},
		"fewer than wanted":       {[]*corev1.Pod{pod("a", "True")}, nil, 3, 2, want{Healthy: 1}},
		"being deleted":           {[]*corev1.Pod{deleted(pod("a", "True")), pod("b", "True")}, nil, 2, 1, want{Healthy: 1}},
		"being evicted":           {[]*corev1.Pod{pod("a", "True"), pod("b", "True")}, evicted(time.Minute), 2, 1, want{Healthy: 1, Disrupted: 1, Again: time.Minute}},
		"eviction never happened": {[]*corev1.Pod{pod("a", "True"), pod("b", "True")}, evicted(2 * time.Minute), 2, 1, want{Healthy: 2, Allowed: 1}},
		"eviction went through":   {[]*corev1.Pod{deleted(pod("a", "True")), pod("b", "True")}, evicted(0), 2, 1, want{Healthy: 1}},
		"nothing is expected":     {[]*corev1.Pod{pod("a", "True")}, nil, 0, 0, want{Healthy: 1}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			budget := &policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{DisruptedPods: tc.disrupted}}
			left, again := stillDisrupted(budget, tc.pods, now)
			status := statusOf(budget, tc.pods, left, tc.expected, tc.desired)
			got := want{status.CurrentHealthy, status.DisruptionsAllowed, len(status.DisruptedPods), again}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestExpectByCount(t *testing.T) {
	budget := &policyv1.PodDisruptionBudget{Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(2))}}
	expected, desired, _, err := (&Reconciler{}).expect(t.Context(), budget, []*corev1.Pod{pod("a", "True"), pod("b", "True"), pod("c", "True")})
	if err != nil || expected != 3 || desired != 2 {
		t.Errorf("expected %d, desired %d, %v", expected, desired, err)
	}
}

func TestStale(t *testing.T) {
	mark := func(status corev1.ConditionStatus, reason string) corev1.PodCondition {
		return corev1.PodCondition{Type: corev1.DisruptionTarget, Status: status, Reason: reason, LastTransitionTime: metav1.NewTime(now)}
	}
	finished := pod("a", "False", mark("True", "EvictionByEvictionAPI"))
	finished.Status.Phase = corev1.PodFailed
	cases := map[string]struct {
		pod  *corev1.Pod
		want bool
	}{
		"no mark":         {pod("a", "True"), false},
		"marked":          {pod("a", "True", mark("True", "EvictionByEvictionAPI")), true},
		"taken back":      {pod("a", "True", mark("False", "")), false},
		"by its kubelet":  {pod("a", "True", mark("True", corev1.PodReasonTerminationByKubelet)), false},
		"deleted already": {deleted(pod("a", "True", mark("True", "EvictionByEvictionAPI"))), false},
		"finished":        {finished, false},
	}
	for name, tc := range cases {
		at, got := stale(tc.pod)
		if got != tc.want || got && !at.Equal(now.Add(2*time.Minute)) {
			t.Errorf("%s: %v at %v", name, got, at)
		}
	}
}
