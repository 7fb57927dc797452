package tainteviction

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestEvictAt(t *testing.T) {
	now := time.Unix(10000, 0)
	taint := func(key string, ago time.Duration) corev1.Taint {
		return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute, TimeAdded: new(metav1.NewTime(now.Add(-ago)))}
	}
	tolerate := func(key string, seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, TolerationSeconds: seconds}
	}
	cases := map[string]struct {
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		created     time.Duration // ago
		want        *time.Duration
	}{
		"no taint":                   {nil, nil, time.Hour, nil},
		"not tolerated":              {nil, []corev1.Taint{taint("a", 0)}, time.Hour, ptr.To[time.Duration](0)},
		"tolerated for ever":         {[]corev1.Toleration{tolerate("a", nil)}, []corev1.Taint{taint("a", 0)}, time.Hour, nil},
		"for a while":                {[]corev1.Toleration{tolerate("a", ptr.To[int64](300))}, []corev1.Taint{taint("a", time.Minute)}, time.Hour, new(4 * time.Minute)},
		"from when the pod came":     {[]corev1.Toleration{tolerate("a", ptr.To[int64](300))}, []corev1.Taint{taint("a", time.Hour)}, time.Minute, new(4 * time.Minute)},
		"the shortest counts":        {[]corev1.Toleration{tolerate("a", ptr.To[int64](300)), tolerate("a", ptr.To[int64](10))}, []corev1.Taint{taint("a", 0)}, time.Hour, new(10 * time.Second)},
		"one of two is too much":     {[]corev1.Toleration{tolerate("a", nil)}, []corev1.Taint{taint("a", 0), taint("b", 0)}, time.Hour, ptr.To[time.Duration](0)},
		"a negative time means now":  {[]corev1.Toleration{tolerate("a", ptr.To[int64](-5))}, []corev1.Taint{taint("a", 0)}, time.Hour, ptr.To[time.Duration](0)},
		"the first of two deadlines": {[]corev1.Toleration{tolerate("a", ptr.To[int64](60)), tolerate("b", ptr.To[int64](20))}, []corev1.Taint{taint("a", 0), taint("b", 0)}, time.Hour, new(20 * time.Second)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-tc.created))}, Spec: corev1.PodSpec{Tolerations: tc.tolerations}}
			at, evict := evictAt(pod, tc.taints, now)
			if evict != (tc.want != nil) {
				t.Fatalf("evict = %v", evict)
			}
			if evict && at.Sub(now) != *tc.want {
				t.Errorf("in %v, want %v", at.Sub(now), *tc.want)
			}
		})
	}
}
