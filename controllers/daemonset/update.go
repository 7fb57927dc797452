package daemonset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"keelson.dev/controllers/revision"
	"keelson.dev/internal/podstate"
)

// fenceposts returns maxSurge and maxUnavailable as numbers of nodes.
func fenceposts(v *view) (surge, unavailable int) {
	rolling := v.set.Spec.UpdateStrategy.RollingUpdate
	if v.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || rolling == nil {
		return 0, 0
	}
	desired := 0
	for _, wish := range v.wish {
		if wish.start {
			desired++
		}
	}
	scaled := func(value *intstr.IntOrString) int {
		if value == nil {
			return 0
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(value, desired, true)
		if err != nil {
			return 0
		}
		return n
	}
	surge, unavailable = scaled(rolling.MaxSurge), scaled(rolling.MaxUnavailable)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

// planUpdate replaces pods of old templates: without surge by removing them, as many as may be unavailable at a time; with surge by
// starting new ones beside them.
func planUpdate(v *view) placement {
	surge, unavailable := fenceposts(v)
	if surge > 0 {
		return planSurge(v, surge)
	}
	return placement{remove: planReplace(v, unavailable)}
}

// pair finds the pods of the new and of old templates on a node; false if there are several of either, which placement settles.
func pair(v *view, node string) (newest, oldest *corev1.Pod, ok bool) {
	for _, pod := range v.pods[node] {
		if pod.DeletionTimestamp != nil {
			continue
		}
		slot := &oldest
		if pod.Labels[revision.HashLabel] == v.hash {
			slot = &newest
		}
		if *slot != nil {
			return nil, nil, false
		}
		*slot = pod
	}
	return newest, oldest, true
}

func planReplace(v *view, maxUnavailable int) []*corev1.Pod {
	var broken, healthy []*corev1.Pod
	unavailable := 0
	for _, node := range v.nodes {
		if !v.wish[node.Name].stay && len(v.pods[node.Name]) == 0 {
			continue
		}
		newest, oldest, ok := pair(v, node.Name)
		available := func(pod *corev1.Pod) bool { return podstate.Available(pod, v.set.Spec.MinReadySeconds, v.now) }
		switch {
		case !ok || (newest == nil) == (oldest == nil):
			if v.wish[node.Name].start || len(v.pods[node.Name]) > 0 {
				unavailable++
			}
		case newest != nil:
			if !available(newest) {
				unavailable++
			}
		case !available(oldest):
			broken = append(broken, oldest) // it is unavailable with or without the update
			unavailable++
		default:
			healthy = append(healthy, oldest)
		}
	}
	return append(broken, healthy[:min(len(healthy), max(0, maxUnavailable-unavailable))]...)
}

// planSurge starts new pods beside old ones. Old pods on nodes that no longer want one go as well, but only as many as leave enough
// available.
func planSurge(v *view, maxSurge int) placement {
	var broken, healthy []string
	var p placement
	var leaving []*corev1.Pod
	surging, spare := 0, 0
	available := func(pod *corev1.Pod) bool {
		return pod != nil && podstate.Available(pod, v.set.Spec.MinReadySeconds, v.now)
	}
	for _, node := range v.nodes {
		newest, oldest, ok := pair(v, node.Name)
		if v.wish[node.Name].start {
			spare--
		}
		if ok && (available(oldest) || oldest == nil && available(newest)) {
			spare++
		}
		switch {
		case !ok:
			surging++
		case oldest == nil:
		case newest != nil:
			surging++
		case !v.wish[node.Name].start && available(oldest):
			leaving = append(leaving, oldest)
		case !v.wish[node.Name].start:
			p.remove = append(p.remove, oldest)
		case !available(oldest):
			broken = append(broken, node.Name)
		default:
			healthy = append(healthy, node.Name)
		}
	}
	p.create = append(broken, healthy[:min(len(healthy), max(0, maxSurge-surging))]...)
	p.remove = append(p.remove, leaving[:min(len(leaving), max(0, spare))]...)
	return p
}

// statusOf counts nodes.
func statusOf(v *view) appsv1.DaemonSetStatus {
	status := appsv1.DaemonSetStatus{ObservedGeneration: v.set.Generation}
	for _, node := range v.nodes {
		pods := v.pods[node.Name]
		if !v.wish[node.Name].start {
			if len(pods) > 0 {
				status.NumberMisscheduled++
			}
			continue
		}
		status.DesiredNumberScheduled++
		if len(pods) == 0 {
			continue
		}
		status.CurrentNumberScheduled++
		pod := pods[0]
		if podstate.Ready(pod) {
			status.NumberReady++
		}
		if podstate.Available(pod, v.set.Spec.MinReadySeconds, v.now) {
			status.NumberAvailable++
		}
		if pod.Labels[revision.HashLabel] == v.hash {
			status.UpdatedNumberScheduled++
		}
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	return status
}
