package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/controllers/podcontrol"
	"keelson.dev/internal/podstate"
)

// plan is what brings an owner to its number of replicas: pods to create, or pods to remove.
type plan struct {
	create int
	remove []*corev1.Pod
}

// planReplicas decides how many pods to create or which ones to remove. related returns the pods of all sibling owners; it is
// called only if there is a choice.
func planReplicas(set *appsv1.ReplicaSet, active []*corev1.Pod, related func() []*corev1.Pod, now time.Time) plan {
	want := int(ptr.Deref(set.Spec.Replicas, 1))
	switch surplus := len(active) - want; {
	case surplus < 0:
		return plan{create: min(-surplus, podcontrol.Burst)}
	case surplus > 0:
		surplus = min(surplus, podcontrol.Burst)
		if want == 0 {
			return plan{remove: active[:surplus]}
		}
		return plan{remove: rank(active, related(), now)[:surplus]}
	}
	return plan{}
}

// rank sorts pods so that those come first whose loss hurts least.
func rank(pods, related []*corev1.Pod, now time.Time) []*corev1.Pod {
	perNode := map[string]int{}
	for _, pod := range related {
		perNode[pod.Spec.NodeName]++
	}
	order := []func(a, b *corev1.Pod) int{
		func(a, b *corev1.Pod) int { return compareBool(a.Spec.NodeName != "", b.Spec.NodeName != "") },
		func(a, b *corev1.Pod) int { return cmp.Compare(phaseRank(a), phaseRank(b)) },
		func(a, b *corev1.Pod) int { return compareBool(podstate.Ready(a), podstate.Ready(b)) },
		func(a, b *corev1.Pod) int { return cmp.Compare(deletionCost(a), deletionCost(b)) },
		func(a, b *corev1.Pod) int { return cmp.Compare(perNode[b.Spec.NodeName], perNode[a.Spec.NodeName]) },
		func(a, b *corev1.Pod) int { return compareAge(a, b, podstate.ReadySince, now) },
		func(a, b *corev1.Pod) int { return cmp.Compare(restarts(b), restarts(a)) },
		func(a, b *corev1.Pod) int {
			return compareAge(a, b, func(p *corev1.Pod) metav1.Time { return p.CreationTimestamp }, now)
		},
		func(a, b *corev1.Pod) int { return cmp.Compare(a.UID, b.UID) },
	}
	sorted := slices.Clone(pods)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		for _, compare := range order {
			if c := compare(a, b); c != 0 {
				return c
			}
		}
		return 0
	})
	return sorted
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func phaseRank(pod *corev1.Pod) int {
	switch pod.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown:
		return 1
	default:
		return 0
	}
}

func deletionCost(pod *corev1.Pod) int64 {
	cost, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return cost
}

func restarts(pod *corev1.Pod) int32 {
	var most int32
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range statuses {
			most = max(most, statuses[i].RestartCount)
		}
	}
	return most
}

// compareAge puts the younger one first, by orders of magnitude of age: among pods of about the same age the choice falls at
// random (by uid), so that a scale-down does not empty the newest node. A zero time is youngest.
func compareAge(a, b *corev1.Pod, of func(*corev1.Pod) metav1.Time, now time.Time) int {
	at, bt := of(a), of(b)
	if at.Equal(&bt) {
		return 0
	}
	if at.IsZero() || bt.IsZero() {
		return compareBool(!at.IsZero(), !bt.IsZero())
	}
	if c := cmp.Compare(magnitude(now.Sub(at.Time)), magnitude(now.Sub(bt.Time))); c != 0 {
		return c
	}
	return cmp.Compare(a.UID, b.UID)
}

func magnitude(age time.Duration) int64 {
	if age <= 0 {
		return -1
	}
	return int64(math.Log2(float64(age)))
}
