// Package podstate answers what a pod's status says: ready, available, terminal, terminating.
package podstate

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Condition returns a condition of the pod, or nil.
func Condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Ready reports whether the Ready condition is true.
func Ready(pod *corev1.Pod) bool {
	c := Condition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// ReadySince returns when the pod became ready, or the zero time.
func ReadySince(pod *corev1.Pod) metav1.Time {
	if c := Condition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime
	}
	return metav1.Time{}
}

// Available reports whether the pod has been ready for minReadySeconds.
func Available(pod *corev1.Pod, minReadySeconds int32, now time.Time) bool {
	if !Ready(pod) {
		return false
	}
	since := ReadySince(pod)
	return minReadySeconds == 0 || !since.IsZero() && !since.Add(time.Duration(minReadySeconds)*time.Second).After(now)
}

// AvailableIn returns how long it takes until the first of those ready pods that are not available yet becomes available; zero if
// there is none.
func AvailableIn(pods []*corev1.Pod, minReadySeconds int32, now time.Time) time.Duration {
	var first time.Duration
	for _, pod := range pods {
		if minReadySeconds == 0 || !Ready(pod) || Available(pod, minReadySeconds, now) {
			continue
		}
		left := ReadySince(pod).Add(time.Duration(minReadySeconds) * time.Second).Sub(now)
		if first == 0 || left < first {
			first = max(left, time.Millisecond)
		}
	}
	return first
}

// Terminal reports whether all containers have stopped for good.
func Terminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Active reports whether the pod counts for a controller: neither terminal nor being deleted.
func Active(pod *corev1.Pod) bool { return !Terminal(pod) && pod.DeletionTimestamp == nil }

// Terminating reports whether the pod is being deleted and has not stopped yet.
func Terminating(pod *corev1.Pod) bool { return !Terminal(pod) && pod.DeletionTimestamp != nil }

// Select returns the pods for which keep holds.
func Select(pods []*corev1.Pod, keep func(*corev1.Pod) bool) []*corev1.Pod {
	var out []*corev1.Pod
	for _, pod := range pods {
		if keep(pod) {
			out = append(out, pod)
		}
	}
	return out
}

// SetCondition sets a condition and reports whether that changed the status.
func SetCondition(status *corev1.PodStatus, c corev1.PodCondition, now metav1.Time) bool {
	c.LastTransitionTime = now
	for i := range status.Conditions {
		old := &status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		c.LastProbeTime = old.LastProbeTime
		changed := *old != c
		*old = c
		return changed
	}
	status.Conditions = append(status.Conditions, c)
	return true
}
