package deployment

import (
	"cmp"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// target is a size that a ReplicaSet should get.
type target struct {
	set      *appsv1.ReplicaSet
	replicas int32
}

// fenceposts returns maxSurge and maxUnavailable as numbers of pods. Both cannot be zero: then one pod may be unavailable.
func fenceposts(d *appsv1.Deployment) (surge, unavailable int32) {
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || rolling == nil || *d.Spec.Replicas == 0 {
		return surgeOnly(d), 0
	}
	replicas := int(*d.Spec.Replicas)
	s, _ := intstr.GetScaledValueFromIntOrPercent(new(ptr.Deref(rolling.MaxSurge, intstr.FromInt32(0))), replicas, true)
	u, _ := intstr.GetScaledValueFromIntOrPercent(new(ptr.Deref(rolling.MaxUnavailable, intstr.FromInt32(0))), replicas, false)
	if s == 0 && u == 0 {
		u = 1
	}
	return int32(s), min(int32(u), *d.Spec.Replicas)
}

// surgeOnly is the surge of a Deployment of size zero, whose absolute number still counts for the annotation max-replicas.
func surgeOnly(d *appsv1.Deployment) int32 {
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || rolling == nil {
		return 0
	}
	s, _ := intstr.GetScaledValueFromIntOrPercent(new(ptr.Deref(rolling.MaxSurge, intstr.FromInt32(0))), int(*d.Spec.Replicas), true)
	return int32(s)
}

func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := fenceposts(d)
	return surge
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	_, unavailable := fenceposts(d)
	return unavailable
}

func active(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var out []*appsv1.ReplicaSet
	for _, set := range sets {
		if *set.Spec.Replicas > 0 {
			out = append(out, set)
		}
	}
	return out
}

func sum(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) int32 {
	var total int32
	for _, set := range sets {
		total += of(set)
	}
	return total
}

func specReplicas(set *appsv1.ReplicaSet) int32      { return *set.Spec.Replicas }
func statusReplicas(set *appsv1.ReplicaSet) int32    { return set.Status.Replicas }
func readyReplicas(set *appsv1.ReplicaSet) int32     { return set.Status.ReadyReplicas }
func availableReplicas(set *appsv1.ReplicaSet) int32 { return set.Status.AvailableReplicas }

// seen is whether a set's controller knows its size and has counted what there was before.
func seen(set *appsv1.ReplicaSet) bool { return set.Status.ObservedGeneration >= set.Generation }

// room is how many pods the growing set may add so that there are never more than replicas + maxSurge. A set's status is behind while it
// grows and its spec is ahead while it shrinks; one whose size has not been seen may still grow to an earlier one. That of the growing
// set does no harm: since it was shrunk, no other has grown.
func room(d *appsv1.Deployment, all []*appsv1.ReplicaSet, growing *appsv1.ReplicaSet) int32 {
	left := *d.Spec.Replicas + maxSurge(d)
	for _, set := range all {
		if set != growing && !seen(set) {
			return 0
		}
		left -= max(*set.Spec.Replicas, set.Status.Replicas)
	}
	return max(0, left)
}

// steady is whether no set but that one has, or may get, more pods than its size.
func steady(all []*appsv1.ReplicaSet, but *appsv1.ReplicaSet) bool {
	return !slices.ContainsFunc(all, func(set *appsv1.ReplicaSet) bool {
		return set != but && (!seen(set) || set.Status.Replicas > *set.Spec.Replicas)
	})
}

// serving is how many available pods a set keeps: those beyond its size are on their way out. Only of a set whose size has been seen is
// that sure: another may have shrunk since its status was written, and have been grown again.
func serving(set *appsv1.ReplicaSet) int32 {
	return min(*set.Spec.Replicas, set.Status.AvailableReplicas)
}

// newSetReplicas returns the size that the new set may have now: never more than replicas + maxSurge pods in all sets.
func newSetReplicas(d *appsv1.Deployment, all []*appsv1.ReplicaSet, set *appsv1.ReplicaSet) int32 {
	want, have := *d.Spec.Replicas, *set.Spec.Replicas
	if have >= want || d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return want
	}
	return have + min(room(d, all, set), want-have)
}

// planOld shrinks old sets as far as availability allows: first pods that are not available anyway, then available ones.
func planOld(d *appsv1.Deployment, all, old []*appsv1.ReplicaSet, newest *appsv1.ReplicaSet) []target {
	minAvailable := *d.Spec.Replicas - maxUnavailable(d)
	// Pods of the new set that are not available yet hold back the old ones: they may never become so.
	room := sum(all, specReplicas) - minAvailable - (*newest.Spec.Replicas - newest.Status.AvailableReplicas)
	if len(active(old)) == 0 || room <= 0 {
		return nil
	}
	size := map[*appsv1.ReplicaSet]int32{}
	oldest := slices.SortedStableFunc(slices.Values(active(old)), olderFirst)
	for _, set := range oldest {
		size[set] = *set.Spec.Replicas
		unhealthy := max(0, *set.Spec.Replicas-set.Status.AvailableReplicas)
		drop := min(room, unhealthy)
		size[set] -= drop
		room -= drop
	}
	spare := int32(0)
	if !slices.ContainsFunc(all, func(set *appsv1.ReplicaSet) bool { return !seen(set) }) {
		spare = sum(all, serving) - minAvailable
	}
	for _, set := range oldest {
		drop := max(0, min(spare, size[set]))
		size[set] -= drop
		spare -= drop
	}
	var targets []target
	for _, set := range oldest {
		if size[set] != *set.Spec.Replicas {
			targets = append(targets, target{set, size[set]})
		}
	}
	return targets
}

// planScale spreads a change of the Deployment's size over its sets in proportion to theirs, so that a rollout in progress stays
// where it is. To grow it waits until the sets are steady: their events come.
func planScale(o *rollout) []target {
	want := *o.d.Spec.Replicas
	if set := onlyOne(o); set != nil {
		if want > *set.Spec.Replicas && !steady(o.sets, set) {
			return nil
		}
		return []target{{set, want}} // even at that size: its annotations may still tell the old one
	}
	if saturated(o.d, o.new) {
		var targets []target
		for _, set := range active(o.old) {
			targets = append(targets, target{set, 0})
		}
		return targets
	}
	if o.d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return nil
	}
	return proportional(o)
}

func proportional(o *rollout) []target {
	sets := active(o.sets)
	allowed := int32(0)
	if *o.d.Spec.Replicas > 0 {
		allowed = *o.d.Spec.Replicas + maxSurge(o.d)
	}
	toAdd := allowed - sum(sets, specReplicas)
	newerFirst := toAdd > 0
	if toAdd > 0 && !steady(o.sets, nil) {
		return nil
	}
	slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		if c := cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas); c != 0 {
			return c
		}
		if newerFirst {
			return olderFirst(b, a)
		}
		return olderFirst(a, b)
	})
	targets := make([]target, 0, len(sets))
	added := int32(0)
	for _, set := range sets {
		share := proportion(o.d, set, toAdd, added)
		added += share
		targets = append(targets, target{set, *set.Spec.Replicas + share})
	}
	if len(targets) > 0 {
		targets[0].replicas = max(0, targets[0].replicas+toAdd-added)
	}
	return targets
}

// proportion returns the part of toAdd that falls to a set, within what the sets before it left.
func proportion(d *appsv1.Deployment, set *appsv1.ReplicaSet, toAdd, added int32) int32 {
	if *set.Spec.Replicas == 0 || toAdd == 0 || toAdd == added {
		return 0
	}
	share, left := fraction(d, set), toAdd-added
	if toAdd > 0 {
		return min(share, left)
	}
	return max(share, left)
}

func fraction(d *appsv1.Deployment, set *appsv1.ReplicaSet) int32 {
	if *d.Spec.Replicas == 0 {
		return -*set.Spec.Replicas
	}
	before, ok := sizeAnnotation(set, maxReplicasAnnotation)
	if !ok || before == 0 {
		before = d.Status.Replicas
	}
	if before == 0 {
		return 0
	}
	size := float64(*set.Spec.Replicas*(*d.Spec.Replicas+maxSurge(d))) / float64(before)
	return int32(math.Round(size)) - *set.Spec.Replicas
}

// onlyOne returns the set that takes the whole size: the only one with replicas, or the newest if none has any.
func onlyOne(o *rollout) *appsv1.ReplicaSet {
	if o.new == nil && len(o.old) == 0 {
		return nil
	}
	switch running := active(o.sets); len(running) {
	case 0:
		if o.new != nil {
			return o.new
		}
		return slices.MaxFunc(o.old, olderFirst)
	case 1:
		return running[0]
	}
	return nil
}

// saturated reports whether the new set has all replicas, all of them available.
func saturated(d *appsv1.Deployment, set *appsv1.ReplicaSet) bool {
	if set == nil {
		return false
	}
	desired, ok := sizeAnnotation(set, desiredReplicasAnnotation)
	want := *d.Spec.Replicas
	return ok && *set.Spec.Replicas == want && desired == want && set.Status.AvailableReplicas == want
}
