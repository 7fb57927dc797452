package devicetainteviction

import (
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestEvictAt(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	added := metav1.NewTime(now.Add(-time.Minute))
	taint := func(effect resourcev1.DeviceTaintEffect) resourcev1.DeviceTaint {
		return resourcev1.DeviceTaint{Key: "broken", Effect: effect, TimeAdded: &added}
	}
	slice := func(generation int64, device string, taints ...resourcev1.DeviceTaint) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{
			Driver: "d", Pool: resourcev1.ResourcePool{Name: "p", Generation: generation}, Devices: []resourcev1.Device{{Name: device, Taints: taints}},
		}}
	}
	rule := func(device string, taint resourcev1.DeviceTaint) *resourcev1.DeviceTaintRule {
		return &resourcev1.DeviceTaintRule{Spec: resourcev1.DeviceTaintRuleSpec{Taint: taint, DeviceSelector: &resourcev1.DeviceTaintSelector{Device: &device}}}
	}
	tolerates := func(seconds *int64) resourcev1.DeviceToleration {
		return resourcev1.DeviceToleration{Key: "broken", Operator: resourcev1.DeviceTolerationOpExists, Effect: resourcev1.DeviceTaintEffectNoExecute, TolerationSeconds: seconds}
	}
	execute, schedule := taint(resourcev1.DeviceTaintEffectNoExecute), taint(resourcev1.DeviceTaintEffectNoSchedule)
	cases := map[string]struct {
		slices      []*resourcev1.ResourceSlice
		rules       []*resourcev1.DeviceTaintRule
		tolerations []resourcev1.DeviceToleration
		want        time.Duration // after the taint was added; negative: it stays
	}{
		"no taint":                              {slices: []*resourcev1.ResourceSlice{slice(1, "a")}, want: -1},
		"NoSchedule":                            {slices: []*resourcev1.ResourceSlice{slice(1, "a", schedule)}, want: -1},
		"NoExecute":                             {slices: []*resourcev1.ResourceSlice{slice(1, "a", execute)}},
		"of another device":                     {slices: []*resourcev1.ResourceSlice{slice(1, "b", execute)}, want: -1},
		"gone in a newer generation":            {slices: []*resourcev1.ResourceSlice{slice(2, "a"), slice(1, "a", execute)}, want: -1},
		"come with a newer generation":          {slices: []*resourcev1.ResourceSlice{slice(1, "a"), slice(2, "a", execute)}},
		"by a rule":                             {rules: []*resourcev1.DeviceTaintRule{rule("a", execute)}},
		"by a rule for another":                 {rules: []*resourcev1.DeviceTaintRule{rule("b", execute)}, want: -1},
		"by a rule that selects nothing":        {rules: []*resourcev1.DeviceTaintRule{{Spec: resourcev1.DeviceTaintRuleSpec{Taint: execute}}}, want: -1},
		"tolerated":                             {slices: []*resourcev1.ResourceSlice{slice(1, "a", execute)}, tolerations: []resourcev1.DeviceToleration{tolerates(nil)}, want: -1},
		"tolerated for a time":                  {slices: []*resourcev1.ResourceSlice{slice(1, "a", execute)}, tolerations: []resourcev1.DeviceToleration{tolerates(new(int64(90)))}, want: 90 * time.Second},
		"the shortest counts":                   {slices: []*resourcev1.ResourceSlice{slice(1, "a", execute)}, tolerations: []resourcev1.DeviceToleration{tolerates(new(int64(90))), tolerates(new(int64(30)))}, want: 30 * time.Second},
		"negative is none":                      {slices: []*resourcev1.ResourceSlice{slice(1, "a", execute)}, tolerations: []resourcev1.DeviceToleration{tolerates(new(int64(-5)))}},
		"two taints, one tolerated for a while": {slices: []*resourcev1.ResourceSlice{slice(1, "a", execute, resourcev1.DeviceTaint{Key: "x", Effect: resourcev1.DeviceTaintEffectNoExecute, TimeAdded: &added})}, tolerations: []resourcev1.DeviceToleration{tolerates(new(int64(90)))}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			claim := &resourcev1.ResourceClaim{Status: resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{
				Results: []resourcev1.DeviceRequestAllocationResult{{Driver: "d", Pool: "p", Device: "a", Tolerations: tc.tolerations}},
			}}}}
			at, evict := evictAt([]*resourcev1.ResourceClaim{claim}, tc.slices, tc.rules, now)
			if evict != (tc.want >= 0) || evict && at.Sub(added.Time) != tc.want {
				t.Errorf("evict %v at %v, want %v after %v", evict, at, tc.want, added)
			}
		})
	}
}

func TestRuleCondition(t *testing.T) {
	const once = " if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."
	cases := map[string]struct {
		effect resourcev1.DeviceTaintEffect
		facts  facts
		want   string
	}{
		"nothing to do":      {resourcev1.DeviceTaintEffectNoExecute, facts{}, "False NotStarted: "},
		"at work":            {resourcev1.DeviceTaintEffectNoExecute, facts{pods: 1, namespaces: 1}, "True PodsPendingEviction: 1 pod needs to be evicted in 1 namespace."},
		"at work for a time": {resourcev1.DeviceTaintEffectNoExecute, facts{pods: 3, namespaces: 2, evicted: 1}, "True PodsPendingEviction: 3 pods need to be evicted in 2 different namespaces. 1 pod evicted since starting the controller."},
		"done":               {resourcev1.DeviceTaintEffectNoExecute, facts{evicted: 2}, "False Completed: 2 pods evicted since starting the controller."},
		"what it would do":   {resourcev1.DeviceTaintEffectNone, facts{published: 2, allocated: 1, pods: 1, namespaces: 1}, "False NoEffect: 2 published devices selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace" + once},
		"of another effect":  {resourcev1.DeviceTaintEffectNoSchedule, facts{pods: 1, namespaces: 1}, "False OtherEffect: Eviction only happens for the NoExecute effect."},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := tc.facts.condition(&resourcev1.DeviceTaintRule{Spec: resourcev1.DeviceTaintRuleSpec{Taint: resourcev1.DeviceTaint{Effect: tc.effect}}})
			if got := string(c.Status) + " " + c.Reason + ": " + c.Message; got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}
