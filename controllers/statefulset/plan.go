package statefulset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"keelson.dev/controllers/revision"
	"keelson.dev/internal/podstate"
)

// view is one look at a StatefulSet.
type view struct {
	set       *appsv1.StatefulSet
	now       time.Time
	current   *appsv1.ControllerRevision // what the set is being updated from
	update    *appsv1.ControllerRevision // of the template that stands in the set
	template  *corev1.PodTemplateSpec    // of current
	replicas  []*corev1.Pod              // by index; nil where there is no pod
	condemned []*corev1.Pod              // outside the ordinals of the set, highest first
	pods      []*corev1.Pod
}

func newView(set *appsv1.StatefulSet, pods []*corev1.Pod, revisions []*appsv1.ControllerRevision, update *appsv1.ControllerRevision, now time.Time) (*view, error) {
	v := &view{set: set, now: now, update: update, current: update, template: &set.Spec.Template, pods: pods}
	for _, rev := range revisions {
		if rev.Name == set.Status.CurrentRevision {
			v.current = rev
		}
	}
	if v.current != update {
		template, err := revision.Template(v.current)
		if err != nil {
			return nil, err
		}
		v.template = template
	}
	count, first := int(ptr.Deref(set.Spec.Replicas, 1)), start(set)
	v.replicas = make([]*corev1.Pod, count)
	for _, pod := range pods {
		ordinal, ok := ordinalOf(set, pod)
		switch {
		case !ok:
		case ordinal >= first && ordinal < first+count:
			v.replicas[ordinal-first] = pod
		default:
			v.condemned = append(v.condemned, pod)
		}
	}
	slices.SortFunc(v.condemned, func(a, b *corev1.Pod) int {
		x, _ := ordinalOf(set, a)
		y, _ := ordinalOf(set, b)
		return y - x
	})
	return v, nil
}

func (v *view) ordered() bool { return v.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement }

func (v *view) available(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && podstate.Available(pod, v.set.Spec.MinReadySeconds, v.now)
}

// healthy reports whether a pod lets those after it in the order proceed.
func (v *view) healthy(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil && v.available(pod) }

func (v *view) partition() int {
	if rolling := v.set.Spec.UpdateStrategy.RollingUpdate; rolling != nil {
		return int(ptr.Deref(rolling.Partition, 0))
	}
	return 0
}

// podFor returns the new pod of an index: of the current template below the partition, and also, without a partition, as long as
// the update has not come that far down; otherwise of the updated one.
func (v *view) podFor(index int) *corev1.Pod {
	keeps := false
	if v.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && v.current != v.update {
		if rolling := v.set.Spec.UpdateStrategy.RollingUpdate; rolling == nil {
			keeps = index < int(v.set.Status.CurrentReplicas)
		} else {
			keeps = index < v.partition()
		}
	}
	if keeps {
		return newPod(v.set, v.template, v.current.Name, start(v.set)+index)
	}
	return newPod(v.set, &v.set.Spec.Template, v.update.Name, start(v.set)+index)
}

type verb int

const (
	create verb = iota
	remove
	claims // make sure that the pod's claims exist
	repair
)

// step is one thing to do to one pod.
type step struct {
	verb verb
	pod  *corev1.Pod
	note string // reason of an event that tells why
}

// planSteps decides what to do now. In an ordered set nothing happens to a pod before all before it are available, and one at a
// time; otherwise all that is missing or surplus is dealt with at once.
func planSteps(v *view) []step {
	steps, wait := planReplicas(v)
	if wait {
		return steps
	}
	condemned, wait := planCondemned(v)
	steps = append(steps, condemned...)
	if wait || v.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return steps
	}
	return append(steps, planUpdate(v)...)
}

// planReplicas fills the ordinals of the set. wait means that the rest must wait for what was found.
func planReplicas(v *view) (steps []step, wait bool) {
	for i, pod := range v.replicas {
		switch {
		case pod == nil:
			steps = append(steps, step{verb: create, pod: v.podFor(i)})
			wait = v.ordered()
		case podstate.Terminal(pod):
			if pod.DeletionTimestamp == nil {
				note := "RecreatingFailedPod"
				if pod.Status.Phase == corev1.PodSucceeded {
					note = "RecreatingTerminatedPod"
				}
				steps = append(steps, step{verb: remove, pod: pod, note: note})
			}
			wait = v.ordered()
		case pod.DeletionTimestamp != nil || !v.available(pod):
			if pod.DeletionTimestamp == nil && (pod.Status.Phase == corev1.PodPending || pod.Status.Phase == "") {
				steps = append(steps, step{verb: claims, pod: pod})
			}
			wait = v.ordered()
		case !identified(v.set, pod, start(v.set)+i):
			steps = append(steps, step{verb: repair, pod: pod})
		}
		if wait {
			return steps, true
		}
	}
	return steps, false
}

// planCondemned removes the pods beyond the size of the set, highest ordinal first.
func planCondemned(v *view) (steps []step, wait bool) {
	broken := v.firstUnhealthy()
	for _, pod := range v.condemned {
		if pod.DeletionTimestamp != nil {
			if v.ordered() {
				return steps, true
			}
			continue
		}
		// A condemned pod that is not available holds the others up, unless it is the very one that everybody waits for.
		if v.ordered() && !v.available(pod) && pod != broken {
			return steps, true
		}
		steps = append(steps, step{verb: remove, pod: pod})
		if v.ordered() {
			return steps, true
		}
	}
	return steps, len(v.condemned) > 0 && v.ordered()
}

// firstUnhealthy returns the pod of the lowest ordinal that is not healthy.
func (v *view) firstUnhealthy() *corev1.Pod {
	for _, pod := range v.replicas {
		if pod != nil && !v.healthy(pod) {
			return pod
		}
	}
	for _, pod := range slices.Backward(v.condemned) {
		if !v.healthy(pod) {
			return pod
		}
	}
	return nil
}

// planUpdate replaces pods of old templates from the highest ordinal down to the partition. Pods that are not available anyway are
// replaced at once: that makes nothing worse.
func planUpdate(v *view) []step {
	budget := v.maxUnavailable()
	for _, pod := range v.replicas {
		if pod == nil || !v.healthy(pod) {
			budget--
		}
	}
	var steps []step
	for i, pod := range slices.Backward(v.replicas) {
		if i < v.partition() {
			break
		}
		if pod == nil || pod.DeletionTimestamp != nil || podstate.Terminal(pod) || pod.Labels[revision.HashLabel] == v.update.Name {
			continue
		}
		if v.healthy(pod) {
			if budget <= 0 {
				continue
			}
			budget--
		}
		steps = append(steps, step{verb: remove, pod: pod})
	}
	return steps
}

func (v *view) maxUnavailable() int {
	rolling := v.set.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil || rolling.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(rolling.MaxUnavailable, len(v.replicas), false)
	if err != nil {
		return 1
	}
	return max(n, 1)
}

// created and removed keep the view in line with our writes, so that the status tells of them at once.
func (v *view) created(pod *corev1.Pod) { v.pods = append(slices.Clone(v.pods), pod) }

func (v *view) removed(pod *corev1.Pod) {
	v.pods = slices.DeleteFunc(slices.Clone(v.pods), func(p *corev1.Pod) bool { return p.UID == pod.UID })
	going := pod.DeepCopy()
	going.DeletionTimestamp = new(v.stamp())
	v.pods = append(v.pods, going)
}

func (v *view) liveRevisions() map[string]bool {
	live := map[string]bool{v.current.Name: true, v.update.Name: true}
	for _, pod := range v.pods {
		live[pod.Labels[revision.HashLabel]] = true
	}
	return live
}
