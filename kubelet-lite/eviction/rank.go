package eviction

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Rank puts the pod to be ended first, in the documented order: those that use more than they requested, then those of low
// priority, then those that are furthest above their request. Nobody requests inodes or process ids, so there the order is by
// priority and use.
func Rank(signal Signal, pods []*corev1.Pod, use map[string]*statsapi.PodStats) {
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		overA, overB := above(signal, a, use), above(signal, b, use)
		if signal != PIDAvailable {
			if c := cmp.Compare(flag(overB > 0), flag(overA > 0)); c != 0 {
				return c
			}
		}
		if c := cmp.Compare(priority(a), priority(b)); c != 0 {
			return c
		}
		return cmp.Compare(overB, overA)
	})
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// above is how much more than its request a pod uses; without statistics it uses nothing.
func above(signal Signal, pod *corev1.Pod, use map[string]*statsapi.PodStats) int64 {
	stats := use[string(pod.UID)]
	if stats == nil {
		return 0
	}
	return podUse(signal, stats) - requested(signal.resource(), pod)
}

func requested(name corev1.ResourceName, pod *corev1.Pod) int64 {
	q := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})[name]
	return q.Value()
}

func podUse(signal Signal, stats *statsapi.PodStats) int64 {
	switch signal.resource() {
	case corev1.ResourceMemory:
		if stats.Memory != nil {
			return number(stats.Memory.WorkingSetBytes)
		}
	case corev1.ResourceEphemeralStorage:
		if stats.EphemeralStorage != nil {
			return number(stats.EphemeralStorage.UsedBytes)
		}
	case "inodes":
		if stats.EphemeralStorage != nil {
			return number(stats.EphemeralStorage.InodesUsed)
		}
	case "pids":
		if stats.ProcessStats != nil {
			return number(stats.ProcessStats.ProcessCount)
		}
	default:
	}
	return 0
}

func number(n *uint64) int64 {
	if n == nil {
		return 0
	}
	return int64(*n)
}

// Message is what users find in the pod's status.
func Message(t Threshold, o Observation, pod *corev1.Pod, stats *statsapi.PodStats) string {
	var b strings.Builder
	name := t.Signal.resource()
	format := resource.BinarySI
	if name == "inodes" || name == "pids" {
		format = resource.DecimalSI
	}
	fmt.Fprintf(&b, "The node was low on resource: %s. Threshold quantity: %s, available: %s. ", name,
		resource.NewQuantity(t.Least.of(o.Capacity), format), resource.NewQuantity(o.Available, format))
	if stats == nil || format != resource.BinarySI {
		return b.String()
	}
	requests := map[string]resource.Quantity{}
	for _, c := range pod.Spec.Containers {
		requests[c.Name] = c.Resources.Requests[name]
	}
	for _, c := range stats.Containers {
		used, request := containerUse(name, &c), requests[c.Name]
		if used > request.Value() {
			fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %s. ", c.Name, resource.NewQuantity(used, format), request.String(), name)
		}
	}
	return b.String()
}

func containerUse(name corev1.ResourceName, c *statsapi.ContainerStats) int64 {
	if name == corev1.ResourceMemory {
		if c.Memory == nil {
			return 0
		}
		return number(c.Memory.WorkingSetBytes)
	}
	var used int64
	for _, fs := range []*statsapi.FsStats{c.Rootfs, c.Logs} {
		if fs != nil {
			used += number(fs.UsedBytes)
		}
	}
	return used
}
