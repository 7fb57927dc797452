package podautoscaler

import (
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

const (
	defaultTolerance = 0.1
	// downWindow is how long a higher recommendation holds a target up, if its behavior says nothing else.
	downWindow = 300
	// remembered is the longest window that the API allows; what is older can be forgotten.
	remembered = time.Hour
)

// behavior is an autoscaler's behavior without gaps.
type behavior struct {
	plain                      bool // none is given: then each step up may be to twice the size, or to four, whatever was added lately
	up, down                   autoscalingv2.HPAScalingRules
	upTolerance, downTolerance float64
}

// behaviorOf fills the gaps with the defaults that the API documents.
func behaviorOf(h *autoscalingv2.HorizontalPodAutoscaler) behavior {
	var up, down *autoscalingv2.HPAScalingRules
	if b := h.Spec.Behavior; b != nil {
		up, down = b.ScaleUp, b.ScaleDown
	}
	percent := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}
	pods := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}
	b := behavior{plain: h.Spec.Behavior == nil}
	b.up, b.upTolerance = rulesOf(up, 0, pods, percent)
	b.down, b.downTolerance = rulesOf(down, downWindow, percent)
	return b
}

func rulesOf(rules *autoscalingv2.HPAScalingRules, window int32, policies ...autoscalingv2.HPAScalingPolicy) (autoscalingv2.HPAScalingRules, float64) {
	var out autoscalingv2.HPAScalingRules
	if rules != nil {
		out = *rules
	}
	out.StabilizationWindowSeconds = new(ptr.Deref(out.StabilizationWindowSeconds, window))
	out.SelectPolicy = new(ptr.Deref(out.SelectPolicy, autoscalingv2.MaxChangePolicySelect))
	if out.Policies == nil {
		out.Policies = policies
	}
	if out.Tolerance != nil {
		return out, out.Tolerance.AsApproximateFloat64()
	}
	return out, defaultTolerance
}

// near reports whether a ratio of usage to target is so close to 1 that scaling is not worth it.
func (b behavior) near(ratio float64) bool {
	return ratio >= 1-b.downTolerance && ratio <= 1+b.upTolerance
}

// history is what an autoscaler recommended and did lately. Only one worker at a time uses it.
type history struct {
	recommended []moment
	changes     []moment // added (positive) or removed replicas
}

type moment struct {
	replicas int32
	at       time.Time
}

func (h *history) scaled(by int32, now time.Time) {
	h.changes = append(recent(h.changes, remembered, now), moment{by, now})
}

func recent(all []moment, window time.Duration, now time.Time) []moment {
	var out []moment
	for _, m := range all {
		if m.at.After(now.Add(-window)) {
			out = append(out, m)
		}
	}
	return out
}

// verdict is the size to go to, and what the conditions say about it.
type verdict struct {
	replicas      int32
	able, limited why
}

type why struct{ reason, message string }

var unlimited = why{"DesiredWithinRange", "the desired count is within the acceptable range"}

func (v verdict) limitedStatus() corev1.ConditionStatus {
	if v.limited == unlimited {
		return corev1.ConditionFalse
	}
	return corev1.ConditionTrue
}

// decide turns what the metrics propose into a size: not before the windows agree, not faster than the policies allow, and never
// outside of least and most.
func (h *history) decide(b behavior, current, proposed, least, most int32, now time.Time) verdict {
	v := verdict{able: why{"ReadyForNewScale", "recommended size matches current size"}, limited: unlimited}
	if len(h.recommended) == 0 {
		h.recommended = []moment{{current, now}} // after a restart: as if it had been recommended just now
	}
	stable := h.stabilized(b, current, proposed, now)
	switch {
	case stable > proposed:
		v.able = why{"ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"}
	case stable < proposed:
		v.able = why{"ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"}
	}
	h.recommended = append(recent(h.recommended, remembered, now), moment{proposed, now})
	v.replicas = stable
	switch {
	case stable > current:
		limit := max(2*current, 4)
		if !b.plain {
			limit = max(h.limit(b.up, current, now, true), current)
		}
		if v.replicas > limit {
			v.replicas, v.limited = limit, why{"ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"}
		}
	case stable < current:
		limit := min(h.limit(b.down, current, now, false), current)
		if v.replicas < limit {
			v.replicas, v.limited = limit, why{"ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"}
		}
	}
	if v.replicas > most {
		v.replicas, v.limited = most, why{"TooManyReplicas", "the desired replica count is more than the maximum replica count"}
	}
	if v.replicas < least {
		v.replicas, v.limited = least, why{"TooFewReplicas", "the desired replica count is less than the minimum replica count"}
	}
	return v
}

// stabilized goes up only to what was recommended throughout the window for going up, and likewise down.
func (h *history) stabilized(b behavior, current, proposed int32, now time.Time) int32 {
	lowest, highest := proposed, proposed
	for _, m := range recent(h.recommended, seconds(*b.up.StabilizationWindowSeconds), now) {
		lowest = min(lowest, m.replicas)
	}
	for _, m := range recent(h.recommended, seconds(*b.down.StabilizationWindowSeconds), now) {
		highest = max(highest, m.replicas)
	}
	return min(max(current, lowest), highest)
}

// limit returns the size that the policies of one direction allow: each counts from the size at the beginning of its period.
func (h *history) limit(rules autoscalingv2.HPAScalingRules, current int32, now time.Time, up bool) int32 {
	if *rules.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	limit, first := current, true
	for _, policy := range rules.Policies {
		start := current
		for _, m := range recent(h.changes, seconds(policy.PeriodSeconds), now) {
			start -= m.replicas
		}
		proposed := allowed(policy, start, up)
		largest := up == (*rules.SelectPolicy == autoscalingv2.MaxChangePolicySelect)
		if first || largest && proposed > limit || !largest && proposed < limit {
			limit, first = proposed, false
		}
	}
	return limit
}

func allowed(policy autoscalingv2.HPAScalingPolicy, start int32, up bool) int32 {
	if policy.Type == autoscalingv2.PodsScalingPolicy {
		if up {
			return start + policy.Value
		}
		return start - policy.Value
	}
	share := float64(policy.Value) / 100
	if up {
		return int32(math.Ceil(float64(start) * (1 + share)))
	}
	return int32(float64(start) * (1 - share))
}

func seconds(s int32) time.Duration { return time.Duration(s) * time.Second }
