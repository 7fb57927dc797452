package job

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/controllers/podcontrol"
	"keelson.dev/internal/podstate"
)

const (
	backoffFirst = 10 * time.Second
	backoffMost  = 10 * time.Minute
)

// plan is what to do about the pods, and when to look again because new ones are held back.
type plan struct {
	create []slot
	remove []*corev1.Pod
	wait   time.Duration
}

// slot is a place for a new pod. index is -1 for Jobs without indexes; failures and ignored carry over from earlier pods of it.
type slot struct{ index, failures, ignored int }

// plan decides which pods to create and to remove.
func (v *view) plan() plan {
	if v.target != nil || suspended(v.job) {
		return plan{remove: limit(v.active)}
	}
	active := v.active
	var surplus []*corev1.Pod
	if indexed(v.job) {
		active, surplus = v.uniqueIndexes()
	}
	parallelism := int(ptr.Deref(v.job.Spec.Parallelism, 1))
	want := parallelism
	if n := completions(v.job); n >= 0 {
		want = min(parallelism, max(0, n-v.successes()))
	} else if v.successes() > 0 {
		want = min(parallelism, len(active)) // no new ones after the first success
	}
	if extra := len(active) - want; extra > 0 {
		surplus = append(surplus, leastUseful(active)[:extra]...)
	}
	if len(surplus) > 0 {
		return plan{remove: limit(surplus)}
	}
	missing := want - len(active)
	if v.replacesOnlyFailed() {
		missing -= len(v.terminating)
	}
	if missing <= 0 {
		return plan{}
	}
	missing = min(missing, podcontrol.Burst)
	if indexed(v.job) {
		return v.planIndexes(missing)
	}
	if wait := backoff(v.pods, v.now); wait > 0 {
		return plan{wait: wait}
	}
	return plan{create: slices.Repeat([]slot{{index: -1}}, missing)}
}

func limit(pods []*corev1.Pod) []*corev1.Pod { return pods[:min(len(pods), podcontrol.Burst)] }

// leastUseful sorts pods so that those come first that are furthest from being done.
func leastUseful(pods []*corev1.Pod) []*corev1.Pod {
	useful := func(pod *corev1.Pod) int {
		switch {
		case podstate.Ready(pod):
			return 3
		case pod.Status.Phase == corev1.PodRunning:
			return 2
		case pod.Spec.NodeName != "":
			return 1
		}
		return 0
	}
	sorted := slices.Clone(pods)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		if c := cmp.Compare(useful(a), useful(b)); c != 0 {
			return c
		}
		return byAge(b, a)
	})
	return sorted
}

// backoff returns how long to wait before the next pod: ten seconds after the first failure since the last success, and twice as
// long after each further one. It follows from the pods alone, so a restart of ours does not reset it.
func backoff(pods []*corev1.Pod, now time.Time) time.Duration {
	var lastSuccess, lastFailure time.Time
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodSucceeded {
			lastSuccess = later(lastSuccess, stopped(pod))
		}
	}
	failures := 0
	for _, pod := range pods {
		if at := stopped(pod); pod.Status.Phase == corev1.PodFailed && at.After(lastSuccess) {
			failures++
			lastFailure = later(lastFailure, at)
		}
	}
	return remaining(failures, lastFailure, now)
}

func remaining(failures int, last, now time.Time) time.Duration {
	if failures == 0 {
		return 0
	}
	delay := backoffMost
	if shift := failures - 1; shift < 6 {
		delay = backoffFirst << shift
	}
	return max(0, last.Add(delay).Sub(now))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// stopped returns when the last container of a finished pod ended; failing that, when the pod stopped being ready, or was deleted or
// created.
func stopped(pod *corev1.Pod) time.Time {
	var at time.Time
	for i := range pod.Status.ContainerStatuses {
		if terminated := pod.Status.ContainerStatuses[i].State.Terminated; terminated != nil {
			at = later(at, terminated.FinishedAt.Time)
		}
	}
	if !at.IsZero() {
		return at
	}
	if c := podstate.Condition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil {
		return pod.DeletionTimestamp.Add(-time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	return pod.CreationTimestamp.Time
}
