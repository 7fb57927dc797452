package podautoscaler

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var now = time.Unix(1_000_000, 0)

// pods makes pods p0, p1, … by a letter each: r ready for long, p pending, s started just now and not ready, f failed.
func pods(kinds string) []*corev1.Pod {
	var out []*corev1.Pod
	for i, kind := range kinds {
		long := metav1.NewTime(now.Add(-time.Hour))
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i)}}
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &long, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: long},
		}}
		switch kind {
		case 'p':
			pod.Status.Phase = corev1.PodPending
		case 'f':
			pod.Status.Phase = corev1.PodFailed
		case 's':
			pod.Status.StartTime = new(metav1.NewTime(now.Add(-time.Second)))
			pod.Status.Conditions[0].Status = corev1.ConditionFalse
		}
		out = append(out, pod)
	}
	return out
}

func TestReplicasFor(t *testing.T) {
	const none = -1
	cases := map[string]struct {
		pods    string
		usage   []int64 // of a request of 1000; none: not measured
		percent int32
		want    int32
	}{
		"as wanted":                              {"rrr", []int64{500, 500, 500}, 50, 3},
		"within tolerance":                       {"rrr", []int64{540, 540, 540}, 50, 3},
		"up":                                     {"rrr", []int64{1000, 1000, 1000}, 50, 6},
		"down":                                   {"rrrr", []int64{200, 200, 200, 200}, 50, 2},
		"rounds up":                              {"rr", []int64{600, 700}, 50, 3},
		"failed pods do not count":               {"rrf", []int64{500, 500, 900}, 50, 3},
		"starting pods dampen the way up":        {"rrs", []int64{1000, 1000, 900}, 50, 4},
		"pending pods dampen it, too":            {"rp", []int64{800, none}, 50, 2},
		"missing pods dampen the way up":         {"rrr", []int64{1000, 1000, none}, 50, 4},
		"missing pods hold up what they may use": {"rrr", []int64{100, 100, none}, 50, 3},
		"missing pods do not turn the way":       {"rr", []int64{450, none}, 80, 2},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			samples, requests := map[string]sample{}, map[string]int64{}
			all := pods(tc.pods)
			for i, pod := range all {
				requests[pod.Name] = 1000
				if tc.usage[i] != none {
					samples[pod.Name] = sample{value: tc.usage[i], at: now, window: time.Minute}
				}
			}
			h := &autoscalingv2.HorizontalPodAutoscaler{}
			got, err := replicasFor(all, samples, goal{percent: tc.percent, requests: requests}, true, int32(len(all)), behaviorOf(h), now)
			if err != nil || got.replicas != tc.want {
				t.Errorf("replicas = %d, %v, want %d", got.replicas, err, tc.want)
			}
		})
	}
	if _, err := replicasFor(pods("p"), nil, goal{value: 1}, true, 1, behavior{}, now); err == nil {
		t.Error("no error without any metrics")
	}
}

func TestShared(t *testing.T) {
	b := behaviorOf(&autoscalingv2.HorizontalPodAutoscaler{})
	if got := replicasForValue(pods("rrp"), 2000, 1000, 3, b); got != 4 {
		t.Errorf("value: %d, want 4: twice the ready pods", got)
	}
	if got := replicasForValue(nil, 1500, 1000, 0, b); got != 2 {
		t.Errorf("value from zero: %d, want 2", got)
	}
	if got, average := replicasForShare(9000, 2000, 3, b); got != 5 || average != 3000 {
		t.Errorf("share: %d of %d, want 5 of 3000", got, average)
	}
	if got, _ := replicasForShare(6200, 2000, 3, b); got != 3 {
		t.Errorf("share within tolerance: %d, want 3", got)
	}
}

func TestDecide(t *testing.T) {
	ago := func(s int) time.Time { return now.Add(-time.Duration(s) * time.Second) }
	defaults := &autoscalingv2.HorizontalPodAutoscalerBehavior{}
	policy := func(kind autoscalingv2.HPAScalingPolicyType, value, period int32) []autoscalingv2.HPAScalingPolicy {
		return []autoscalingv2.HPAScalingPolicy{{Type: kind, Value: value, PeriodSeconds: period}}
	}
	cases := map[string]struct {
		behavior                       *autoscalingv2.HorizontalPodAutoscalerBehavior
		past                           history
		current, proposed, least, most int32
		want                           int32
		reason                         string
	}{
		"stay":                     {current: 3, proposed: 3, least: 1, most: 10, want: 3, reason: "DesiredWithinRange"},
		"up to four":               {current: 1, proposed: 9, least: 1, most: 10, want: 4, reason: "ScaleUpLimit"},
		"doubled again":            {past: history{changes: []moment{{3, ago(14)}}}, current: 4, proposed: 50, least: 1, most: 100, want: 8, reason: "ScaleUpLimit"},
		"up by four":               {behavior: defaults, current: 1, proposed: 9, least: 1, most: 10, want: 5, reason: "ScaleUpLimit"},
		"up by as many":            {current: 10, proposed: 50, least: 1, most: 100, want: 20, reason: "ScaleUpLimit"},
		"what was added counts":    {behavior: defaults, past: history{changes: []moment{{4, ago(5)}}}, current: 5, proposed: 50, least: 1, most: 100, want: 5, reason: "ScaleUpLimit"},
		"long ago does not":        {behavior: defaults, past: history{changes: []moment{{4, ago(20)}}}, current: 5, proposed: 50, least: 1, most: 100, want: 10, reason: "ScaleUpLimit"},
		"maximum":                  {current: 5, proposed: 9, least: 1, most: 7, want: 7, reason: "TooManyReplicas"},
		"held up by the window":    {past: history{recommended: []moment{{8, ago(100)}}}, current: 8, proposed: 2, least: 1, most: 10, want: 8, reason: "DesiredWithinRange"},
		"down to the window's top": {past: history{recommended: []moment{{8, ago(400)}, {5, ago(100)}}}, current: 8, proposed: 2, least: 1, most: 10, want: 5, reason: "DesiredWithinRange"},
		"minimum":                  {past: history{recommended: []moment{{1, ago(400)}}}, current: 8, proposed: 1, least: 3, most: 10, want: 3, reason: "TooFewReplicas"},
		"down one a minute": {
			behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](0), Policies: policy(autoscalingv2.PodsScalingPolicy, 1, 60)}},
			current:  8, proposed: 2, least: 1, most: 10, want: 7, reason: "ScaleDownLimit",
		},
		"down by a tenth": {
			behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](0), Policies: policy(autoscalingv2.PercentScalingPolicy, 10, 60)}},
			current:  20, proposed: 2, least: 1, most: 50, want: 18, reason: "ScaleDownLimit",
		},
		"never down": {
			behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](0), SelectPolicy: new(autoscalingv2.DisabledPolicySelect)}},
			current:  8, proposed: 2, least: 1, most: 10, want: 8, reason: "ScaleDownLimit",
		},
		"smallest change": {
			behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{SelectPolicy: new(autoscalingv2.MinChangePolicySelect)}},
			current:  10, proposed: 50, least: 1, most: 100, want: 14, reason: "ScaleUpLimit",
		},
		"up only what the window agrees on": {
			behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](60)}},
			past:     history{recommended: []moment{{3, ago(30)}}}, current: 2, proposed: 6, least: 1, most: 10, want: 3, reason: "DesiredWithinRange",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h := &autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{Behavior: tc.behavior}}
			if tc.past.recommended == nil {
				tc.past.recommended = []moment{{tc.proposed, ago(1)}}
			}
			got := tc.past.decide(behaviorOf(h), tc.current, tc.proposed, tc.least, tc.most, now)
			if got.replicas != tc.want || got.limited.reason != tc.reason {
				t.Errorf("%d, %s; want %d, %s", got.replicas, got.limited.reason, tc.want, tc.reason)
			}
		})
	}
}

func TestRequestsOf(t *testing.T) {
	request := func(cpu string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		Containers:     []corev1.Container{{Name: "a", Resources: request("100m")}, {Name: "b", Resources: request("1")}},
		InitContainers: []corev1.Container{{Name: "once", Resources: request("5")}, {Name: "beside", Resources: request("10m"), RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}},
	}}
	for container, want := range map[string]int64{"": 1110, "a": 100, "beside": 10} {
		got, err := requestsOf([]*corev1.Pod{pod}, corev1.ResourceCPU, container)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]int64{"p": want}, got); diff != "" {
			t.Errorf("container %q: %s", container, diff)
		}
	}
	if _, err := requestsOf([]*corev1.Pod{pod}, corev1.ResourceMemory, ""); err == nil {
		t.Error("no error for a resource that is not requested")
	}
}
