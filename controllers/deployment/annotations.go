package deployment

import (
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// Annotations by which the controller and kubectl rollout talk to each other.
const (
	RevisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	desiredReplicasAnnotation = "deployment.kubernetes.io/desired-replicas"
	maxReplicasAnnotation     = "deployment.kubernetes.io/max-replicas"
)

// maxHistoryChars bounds the annotation that lists the earlier revisions of a set that was rolled back to.
const maxHistoryChars = 2000

// private are the annotations that describe one object and are not copied from a Deployment to its sets.
var private = []string{
	corev1.LastAppliedConfigAnnotation, RevisionAnnotation, revisionHistoryAnnotation, desiredReplicasAnnotation,
	maxReplicasAnnotation, appsv1.DeprecatedRollbackTo,
}

// annotate copies the Deployment's annotations to a set and raises its revision.
func annotate(d *appsv1.Deployment, set *appsv1.ReplicaSet, revision int64, existed bool) {
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	for key, value := range d.Annotations {
		if !slices.Contains(private, key) {
			set.Annotations[key] = value
		}
	}
	before := set.Annotations[RevisionAnnotation]
	if revisionOf(set) >= revision {
		return
	}
	set.Annotations[RevisionAnnotation] = strconv.FormatInt(revision, 10)
	if existed && before != "" {
		appendHistory(set, before)
	}
}

func appendHistory(set *appsv1.ReplicaSet, revision string) {
	history := set.Annotations[revisionHistoryAnnotation]
	if history == "" {
		set.Annotations[revisionHistoryAnnotation] = revision
		return
	}
	entries := append(strings.Split(history, ","), revision)
	joined := strings.Join(entries, ",")
	for len(joined) > maxHistoryChars && len(entries) > 1 {
		entries = entries[1:]
		joined = strings.Join(entries, ",")
	}
	set.Annotations[revisionHistoryAnnotation] = joined
}

// setSizeAnnotations records the Deployment's size at the time that the set got its own, and reports whether that changed it.
func setSizeAnnotations(set *appsv1.ReplicaSet, desired, most int32) bool {
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	changed := false
	for key, value := range map[string]int32{desiredReplicasAnnotation: desired, maxReplicasAnnotation: most} {
		text := strconv.Itoa(int(value))
		if set.Annotations[key] != text {
			set.Annotations[key] = text
			changed = true
		}
	}
	return changed
}

func sizeAnnotation(set *appsv1.ReplicaSet, key string) (int32, bool) {
	value, err := strconv.ParseInt(set.Annotations[key], 10, 32)
	return int32(value), err == nil
}

func revisionOf(set *appsv1.ReplicaSet) int64 {
	revision, err := strconv.ParseInt(set.Annotations[RevisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return revision
}

func maxRevision(sets []*appsv1.ReplicaSet) int64 {
	var most int64
	for _, set := range sets {
		most = max(most, revisionOf(set))
	}
	return most
}

// scaledByUser reports whether the Deployment's size changed since its sets got theirs.
func scaledByUser(o *rollout) bool {
	for _, set := range active(o.sets) {
		if desired, ok := sizeAnnotation(set, desiredReplicasAnnotation); ok && desired != ptr.Deref(o.d.Spec.Replicas, 1) {
			return true
		}
	}
	return false
}

// surplusHistory returns the old, empty sets beyond the history limit, lowest revision first.
func surplusHistory(d *appsv1.Deployment, old []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	if d.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	alive := slices.DeleteFunc(slices.Clone(old), func(set *appsv1.ReplicaSet) bool { return set.DeletionTimestamp != nil })
	surplus := len(alive) - int(*d.Spec.RevisionHistoryLimit)
	if surplus <= 0 {
		return nil
	}
	slices.SortStableFunc(alive, func(a, b *appsv1.ReplicaSet) int { return int(revisionOf(a) - revisionOf(b)) })
	return slices.DeleteFunc(alive[:surplus], func(set *appsv1.ReplicaSet) bool {
		return set.Status.Replicas != 0 || *set.Spec.Replicas != 0 || set.Generation > set.Status.ObservedGeneration
	})
}
