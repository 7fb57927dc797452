package faults

import (
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"keelson.dev/internal/podstate"
)

// checker replays a history and says where a promise was broken. A controller may act on what was true a moment ago: a limit is the
// most generous one of the time since a window before now in which its controller had seen it, and a pod that a person took within the
// window still counts as available.
type checker struct {
	window time.Duration
	taken  map[types.UID]time.Time
	ended  map[types.UID]bool
	bound  map[types.UID]time.Time

	now    time.Time
	pods   map[types.UID]*corev1.Pod
	owners map[types.UID]metav1.Object
	limits map[string][]limit
	jobs   map[types.UID]*counts
	losses map[types.UID][]loss
	// unready is how many pods of a ReplicaSet may still go that were not ready when it was last made smaller.
	unready map[types.UID]int
	broken  []string
}

// limit is a number that a user wrote, and when its controller reported that it had seen it.
type limit struct {
	value      int
	generation int64
	seen       time.Time
}

// loss is a pod that a person took.
type loss struct {
	at      time.Time
	ordinal int
}

// counts is what a Job's pods really did.
type counts struct {
	succeeded                 map[string]time.Time // by place, and when that was seen
	failed                    map[types.UID]bool
	saidSucceeded, saidFailed int
}

func check(h *history, ended map[types.UID]bool, window time.Duration) *checker {
	c := &checker{
		window: window, taken: maps.Clone(h.taken), ended: ended, bound: map[types.UID]time.Time{}, pods: map[types.UID]*corev1.Pod{}, owners: map[types.UID]metav1.Object{},
		limits: map[string][]limit{}, jobs: map[types.UID]*counts{}, losses: map[types.UID][]loss{}, unready: map[types.UID]int{},
	}
	for _, change := range h.inOrder() {
		if change.at.After(c.now) {
			c.now = change.at
		}
		if pod, ok := change.object.(*corev1.Pod); ok {
			c.seePod(pod, change.gone)
		} else {
			c.seeOwner(change.object, change.gone)
		}
	}
	return c
}

func (c *checker) fail(object metav1.Object, format string, args ...any) {
	c.broken = append(c.broken, fmt.Sprintf("revision %s: %s %s: ", object.GetResourceVersion(), kindOf(object), object.GetName())+fmt.Sprintf(format, args...))
}

// note remembers a limit, and which of them the controller has observed; most and least are its extremes of late.
func (c *checker) note(object metav1.Object, observed int64, name string, value int) {
	key := string(object.GetUID()) + name
	known := c.limits[key]
	if len(known) == 0 || known[len(known)-1].value != value {
		known = append(known, limit{value: value, generation: object.GetGeneration()})
	}
	for i := range known {
		if known[i].seen.IsZero() && known[i].generation <= observed {
			known[i].seen = c.now
		}
	}
	c.limits[key] = known
}

func (c *checker) recent(uid types.UID, name string) []int {
	values := []int{}
	for _, l := range slices.Backward(c.limits[string(uid)+name]) {
		values = append(values, l.value)
		if !l.seen.IsZero() && c.now.Sub(l.seen) > c.window {
			break
		}
	}
	if len(values) == 0 {
		return []int{0}
	}
	return values
}

func (c *checker) most(uid types.UID, name string) int  { return slices.Max(c.recent(uid, name)) }
func (c *checker) least(uid types.UID, name string) int { return slices.Min(c.recent(uid, name)) }

func scaled(value *intstr.IntOrString, of int, up bool) int {
	if value == nil {
		return 0
	}
	n, _ := intstr.GetScaledValueFromIntOrPercent(value, of, up)
	return n
}

func (c *checker) seeOwner(object metav1.Object, gone bool) {
	before := c.owners[object.GetUID()]
	if gone {
		delete(c.owners, object.GetUID())
		return
	}
	c.owners[object.GetUID()] = object
	switch o := object.(type) {
	case *appsv1.Deployment:
		replicas := int(*o.Spec.Replicas)
		surge, unavailable := 0, replicas
		if rolling := o.Spec.Strategy.RollingUpdate; rolling != nil {
			surge, unavailable = scaled(rolling.MaxSurge, replicas, true), scaled(rolling.MaxUnavailable, replicas, false)
			if surge == 0 && unavailable == 0 {
				unavailable = 1
			}
		}
		c.note(o, o.Status.ObservedGeneration, "most", replicas+surge)
		c.note(o, o.Status.ObservedGeneration, "least", replicas-unavailable)
	case *appsv1.ReplicaSet:
		c.note(o, o.Status.ObservedGeneration, "most", int(*o.Spec.Replicas))
		c.seeSet(before, o)
	case *appsv1.StatefulSet:
		c.note(o, o.Status.ObservedGeneration, "most", int(*o.Spec.Replicas))
		c.note(o, o.Status.ObservedGeneration, "unavailable", max(1, scaled(rollingOf(o).MaxUnavailable, int(*o.Spec.Replicas), false)))
	case *appsv1.DaemonSet:
		rolling := ptr.Deref(o.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		c.note(o, o.Status.ObservedGeneration, "surge", scaled(rolling.MaxSurge, len(nodes), true))
		c.note(o, o.Status.ObservedGeneration, "unavailable", scaled(rolling.MaxUnavailable, len(nodes), true))
	case *batchv1.Job:
		c.note(o, o.Generation, "most", int(*o.Spec.Parallelism)) // nobody changes it
		c.seeJob(o)
	}
}

func rollingOf(set *appsv1.StatefulSet) appsv1.RollingUpdateStatefulSetStrategy {
	return ptr.Deref(set.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
}

// seeSet: the sets of a Deployment never want more pods together than its replicas and surge.
func (c *checker) seeSet(before metav1.Object, set *appsv1.ReplicaSet) {
	owner := metav1.GetControllerOf(set)
	if before != nil {
		c.shrunk(set, int(*before.(*appsv1.ReplicaSet).Spec.Replicas-*set.Spec.Replicas))
	}
	grown := before == nil || *before.(*appsv1.ReplicaSet).Spec.Replicas < *set.Spec.Replicas
	if owner == nil || !grown {
		return
	}
	sum := 0
	for _, sibling := range c.owners {
		if s, ok := sibling.(*appsv1.ReplicaSet); ok && metav1.IsControlledBy(s, c.owners[owner.UID]) {
			sum += int(*s.Spec.Replicas)
		}
	}
	if most := c.most(owner.UID, "most"); sum > most {
		c.fail(set, "the replica sets want %d pods, at most %d are allowed", sum, most)
	}
}

// shrunk notes how many pods of a set were not ready when it was told to give some up. So many may go even if they get ready in the
// meantime: a Deployment that rolls takes unready pods of its old sets first, and does not know of what its sets learn later.
func (c *checker) shrunk(set *appsv1.ReplicaSet, by int) {
	if by <= 0 {
		return
	}
	unready := c.of(set.UID, func(p *corev1.Pod) bool { return podstate.Active(p) && !podstate.Ready(p) })
	c.unready[set.UID] = min(len(unready), by)
}

func (c *checker) seePod(pod *corev1.Pod, gone bool) {
	before := c.pods[pod.UID]
	owner := metav1.GetControllerOf(pod)
	if gone {
		// One that was bound while it was deleted is gone at once: the API server took it for one that no node had.
		raced := before != nil && before.DeletionGracePeriodSeconds != nil && *before.DeletionGracePeriodSeconds == 0 && c.justNow(c.bound[pod.UID])
		if before != nil && before.Status.Phase == corev1.PodRunning && !c.ended[pod.UID] && !raced {
			c.fail(pod, "is gone, and its node has not ended it")
		}
		delete(c.pods, pod.UID)
		if owner != nil && !c.taken[pod.UID].IsZero() {
			c.lose(owner.UID, pod)
		}
	} else {
		c.pods[pod.UID] = pod
		if pod.Spec.NodeName != "" && c.bound[pod.UID].IsZero() {
			c.bound[pod.UID] = c.now
		}
	}
	if owner == nil {
		return
	}
	if owner.Kind == "Job" {
		c.countPod(owner.UID, pod, gone)
	}
	switch {
	case before == nil && !gone:
		c.born(owner, pod)
	case before != nil && before.DeletionTimestamp == nil && (gone || pod.DeletionTimestamp != nil) && c.taken[pod.UID].IsZero():
		c.deleted(owner, before)
	}
}

// of returns the pods that an owner controls.
func (c *checker) of(owner types.UID, keep func(*corev1.Pod) bool) []*corev1.Pod {
	var pods []*corev1.Pod
	for _, pod := range c.pods {
		if ref := metav1.GetControllerOf(pod); ref != nil && ref.UID == owner && keep(pod) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// born checks the promises about too many pods.
func (c *checker) born(owner *metav1.OwnerReference, pod *corev1.Pod) {
	active := len(c.of(owner.UID, podstate.Active))
	switch o := c.owners[owner.UID].(type) {
	case *appsv1.ReplicaSet:
		if most := c.most(owner.UID, "most"); active > most {
			c.fail(pod, "pod %d of replica set %s, which wants %d", active, owner.Name, most)
		}
		if deployment := metav1.GetControllerOf(o); deployment != nil {
			active = len(c.ofDeployment(deployment.UID, podstate.Active))
			if most := c.most(deployment.UID, "most"); active > most {
				c.fail(pod, "pod %d of deployment %s, at most %d are allowed", active, deployment.Name, most)
			}
		}
	case *appsv1.StatefulSet:
		c.bornInOrder(o, pod)
	case *appsv1.DaemonSet:
		c.bornOnNode(o, pod)
	case *batchv1.Job:
		c.bornForJob(o, pod, active)
	}
}

func (c *checker) ofDeployment(uid types.UID, keep func(*corev1.Pod) bool) []*corev1.Pod {
	var pods []*corev1.Pod
	for _, object := range c.owners {
		if set, ok := object.(*appsv1.ReplicaSet); ok {
			if ref := metav1.GetControllerOf(set); ref != nil && ref.UID == uid {
				pods = append(pods, c.of(set.UID, keep)...)
			}
		}
	}
	return pods
}

func (c *checker) bornInOrder(set *appsv1.StatefulSet, pod *corev1.Pod) {
	ordinal := ordinalOf(pod)
	if most := c.most(set.UID, "most"); ordinal >= most {
		c.fail(pod, "has no ordinal of a set of %d", most)
	}
	if set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement {
		return
	}
	for i := range ordinal {
		if len(c.of(set.UID, func(p *corev1.Pod) bool { return ordinalOf(p) == i && c.serves(p) })) == 0 && c.lost(set.UID, i) == 0 {
			c.fail(pod, "is made while ordinal %d is not ready", i)
		}
	}
}

func ordinalOf(pod *corev1.Pod) int {
	var n int
	_, _ = fmt.Sscanf(pod.Labels[appsv1.PodIndexLabel], "%d", &n)
	return n
}

// serves is whether a pod is ready, or was until a person took it a moment ago.
func (c *checker) serves(pod *corev1.Pod) bool {
	return podstate.Active(pod) && podstate.Ready(pod) || c.justNow(c.taken[pod.UID])
}

func (c *checker) justNow(at time.Time) bool {
	return !at.IsZero() && !c.now.Before(at) && c.now.Sub(at) < c.window
}

// lose notes that a pod is gone which a person took: a controller may not know it yet.
func (c *checker) lose(owner types.UID, pod *corev1.Pod) {
	if set, ok := c.owners[owner].(*appsv1.ReplicaSet); ok && metav1.GetControllerOf(set) != nil {
		owner = metav1.GetControllerOf(set).UID
	}
	c.losses[owner] = append(c.losses[owner], loss{c.now, ordinalOf(pod)})
}

// lost is how many pods of an owner people took within the window; of one ordinal, unless that is negative.
func (c *checker) lost(owner types.UID, ordinal int) int {
	n := 0
	for _, l := range c.losses[owner] {
		if c.justNow(l.at) && (ordinal < 0 || l.ordinal == ordinal) {
			n++
		}
	}
	return n
}

func (c *checker) bornOnNode(set *appsv1.DaemonSet, pod *corev1.Pod) {
	node := pinned(pod)
	surge := c.most(set.UID, "surge")
	here := c.of(set.UID, func(p *corev1.Pod) bool { return pinned(p) == node && (surge == 0 || podstate.Active(p)) })
	if most := min(1+surge, 2); len(here) > most {
		c.fail(pod, "pod %d for node %s, %d is allowed", len(here), node, most)
	}
	double := 0
	for _, name := range nodes {
		if len(c.of(set.UID, func(p *corev1.Pod) bool { return pinned(p) == name && podstate.Active(p) })) > 1 {
			double++
		}
	}
	if double > surge {
		c.fail(pod, "%d nodes have two pods, %d may", double, surge)
	}
}

// deleted checks the promises about too few pods: before is a pod that a controller has just deleted.
func (c *checker) deleted(owner *metav1.OwnerReference, before *corev1.Pod) {
	if c.unready[owner.UID] > 0 {
		c.unready[owner.UID]--
		return
	}
	if !podstate.Active(before) || !podstate.Ready(before) {
		return
	}
	switch o := c.owners[owner.UID].(type) {
	case *appsv1.ReplicaSet:
		deployment := metav1.GetControllerOf(o)
		if deployment == nil || c.owners[deployment.UID] == nil {
			return
		}
		left := len(c.ofDeployment(deployment.UID, c.serves)) + c.lost(deployment.UID, -1)
		if least := c.least(deployment.UID, "least"); left < least {
			c.fail(before, "was deleted, which leaves %d available pods of deployment %s, and %d are promised", left, deployment.Name, least)
		}
	case *appsv1.StatefulSet:
		replicas := c.least(o.UID, "most")
		if ordinalOf(before) >= replicas {
			return
		}
		left := len(c.of(o.UID, func(p *corev1.Pod) bool { return ordinalOf(p) < replicas && c.serves(p) })) + c.lost(o.UID, -1)
		if least := replicas - c.most(o.UID, "unavailable"); left < least {
			c.fail(before, "was deleted, which leaves %d of %d pods, and %d are promised", left, replicas, least)
		}
	case *appsv1.DaemonSet:
		if c.most(o.UID, "surge") > 0 {
			return
		}
		left := len(c.of(o.UID, c.serves)) + c.lost(o.UID, -1)
		if least := len(nodes) - c.most(o.UID, "unavailable"); left < least {
			c.fail(before, "was deleted, which leaves %d nodes served, and %d are promised", left, least)
		}
	}
}
