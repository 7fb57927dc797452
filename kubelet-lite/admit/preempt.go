package admit

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"keelson.dev/kubelet-lite/cgroups"
	"keelson.dev/kubelet-lite/staticpods"
)

// Victims are pods that must end so that a critical pod fits, and the resource that is short. There are none if the pod is not critical,
// if something else than a lack of resources keeps it away, or if not even all that may be preempted would do. Of the lower classes of
// service all are counted on before one of a higher class is chosen, and of those of a class the one that covers most of what is
// missing.
func Victims(in Input) ([]*corev1.Pod, corev1.ResourceName) {
	missing := map[corev1.ResourceName]int64{}
	short := shortages(in)
	for _, s := range short {
		missing[s.name] = s.requested + s.used - s.capacity
	}
	if len(short) == 0 || !Critical(in.Pod, in.Static) || first(in, otherChecks) != nil {
		return nil, ""
	}
	classes := [][]*corev1.Pod{{}, {}, {}} // guaranteed, burstable, best effort
	for _, pod := range in.Active {
		if preemptable(in.Pod, pod) {
			at := slices.Index([]corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort}, cgroups.QoS(pod))
			classes[at] = append(classes[at], pod)
		}
	}
	var chosen []*corev1.Pod
	for i, class := range classes {
		counted := slices.Concat(append(slices.Clone(classes[i+1:]), chosen)...)
		more, ok := cover(class, without(missing, counted))
		if !ok {
			return nil, ""
		}
		chosen = append(chosen, more...)
	}
	return chosen, short[0].name
}

// preemptable: the node's own pods and those of critical priority yield to nobody of no higher priority.
func preemptable(by, pod *corev1.Pod) bool {
	mine, theirs := by.Spec.Priority, pod.Spec.Priority
	return !Critical(pod, staticpods.IsStatic(pod)) || mine != nil && theirs != nil && *mine > *theirs
}

// cover chooses the fewest pods that make up for what is missing, as near as picking the best one again and again gets.
func cover(pods []*corev1.Pod, missing map[corev1.ResourceName]int64) (chosen []*corev1.Pod, ok bool) {
	pods = slices.Clone(pods)
	for len(missing) > 0 {
		if len(pods) == 0 {
			return nil, false
		}
		best := slices.MinFunc(pods, func(a, b *corev1.Pod) int {
			return cmp.Or(
				cmp.Compare(distance(a, missing), distance(b, missing)),
				cmp.Compare(amount(a, corev1.ResourceMemory), amount(b, corev1.ResourceMemory)),
				cmp.Compare(amount(a, corev1.ResourceCPU), amount(b, corev1.ResourceCPU)),
			)
		})
		chosen = append(chosen, best)
		missing = without(missing, []*corev1.Pod{best})
		pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return p == best })
	}
	return chosen, true
}

// distance is how far a pod alone is from what is missing: the sum of the squares of the parts that it leaves.
func distance(pod *corev1.Pod, missing map[corev1.ResourceName]int64) (sum float64) {
	for name, n := range missing {
		left := float64(max(n-amount(pod, name), 0)) / float64(n)
		sum += left * left
	}
	return sum
}

// without is what is still missing when pods have gone.
func without(missing map[corev1.ResourceName]int64, pods []*corev1.Pod) map[corev1.ResourceName]int64 {
	out := map[corev1.ResourceName]int64{}
	for name, n := range missing {
		for _, pod := range pods {
			n -= amount(pod, name)
		}
		if n > 0 {
			out[name] = n
		}
	}
	return out
}

// amount is what a pod holds of a resource, in the unit of shortages.
func amount(pod *corev1.Pod, name corev1.ResourceName) int64 {
	if name == corev1.ResourcePods {
		return 1
	}
	return unit(name, resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})[name])
}
