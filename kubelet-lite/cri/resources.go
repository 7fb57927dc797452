package cri

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/kubelet-lite/cgroups"
)

const (
	minShares = 2
	maxShares = 262144
	cfsPeriod = 100000 // microseconds
	minQuota  = 1000   // the kernel accepts no less

	guaranteedOOMScore = -997
	bestEffortOOMScore = 1000
)

// Shares converts CPU milli-units to cgroup v1 shares, which runtimes translate to a weight on v2.
func Shares(milli int64) int64 {
	if milli == 0 {
		return minShares
	}
	return min(max(milli*1024/1000, minShares), maxShares)
}

// Quota converts CPU milli-units to microseconds per period; 0 means no limit.
func Quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*cfsPeriod/1000, minQuota)
}

// Limit is what bounds a container's use of CPU or memory: its own limit, else that of its pod as a whole, by which a program in it that
// looks at its own control group sees what it may use (KEP-2837).
func Limit(pod *corev1.Pod, c *corev1.Container, name corev1.ResourceName) resource.Quantity {
	if own, ok := c.Resources.Limits[name]; ok || pod.Spec.Resources == nil {
		return own
	}
	return pod.Spec.Resources.Limits[name]
}

// Resources are the limits of one container's cgroup.
func (n *Node) Resources(pod *corev1.Pod, c *corev1.Container) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{OomScoreAdj: OOMScoreAdj(pod, c, n.MemoryCapacity)}
	request, hasRequest := c.Resources.Requests[corev1.ResourceCPU]
	limit, memory := Limit(pod, c, corev1.ResourceCPU), Limit(pod, c, corev1.ResourceMemory)
	if !hasRequest {
		request = limit
	}
	out.CpuShares = Shares(request.MilliValue())
	if !n.NoCPUQuota {
		out.CpuPeriod, out.CpuQuota = cfsPeriod, Quota(limit.MilliValue())
	}
	if n.Place != nil {
		var exclusive bool
		if out.CpusetCpus, out.CpusetMems, exclusive = n.Place(pod.UID, c.Name); exclusive && !n.NoCPUQuota {
			out.CpuQuota = -1
		}
	}
	out.MemoryLimitInBytes = memory.Value()
	if n.CgroupV2 {
		out.Unified = map[string]string{"memory.oom.group": "1"}
		if n.SwapAccounting {
			out.Unified["memory.swap.max"] = strconv.FormatInt(n.swap(pod, c), 10)
		}
	}
	for name, q := range c.Resources.Limits {
		if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
			out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: hugepageSize(size), Limit: uint64(q.Value())})
		}
	}
	return out
}

// swap is how much of it a container may use, in bytes (KEP-2400): where the node allows any, that of the node in the proportion in which
// it asks for memory. A container that asked for all that it may have gets none, nor does one that asked for nothing.
func (n *Node) swap(pod *corev1.Pod, c *corev1.Container) int64 {
	request, limit := c.Resources.Requests.Memory(), c.Resources.Limits.Memory()
	critical := cgroups.HasPriority(pod, cgroups.CriticalPriority)
	if n.Swap == 0 || n.MemoryCapacity == 0 || critical || QOSClass(pod) != corev1.PodQOSBurstable || request.IsZero() || request.Cmp(*limit) == 0 {
		return 0
	}
	return int64(float64(n.Swap) * float64(request.Value()) / float64(n.MemoryCapacity))
}

// hugepageSize turns 2Mi into the 2MB of the kernel's files.
func hugepageSize(size string) string {
	return strings.TrimSuffix(size, "i") + "B"
}

// OOMScoreAdj says who the kernel kills first: the less of its request a burstable container could exceed, the later.
func OOMScoreAdj(pod *corev1.Pod, c *corev1.Container, memoryCapacity int64) int64 {
	if cgroups.HasPriority(pod, cgroups.NodeCriticalPriority) {
		return guaranteedOOMScore
	}
	switch QOSClass(pod) {
	case corev1.PodQOSGuaranteed:
		return guaranteedOOMScore
	case corev1.PodQOSBestEffort:
		return bestEffortOOMScore
	default: // burstable: by its share
	}
	score := burstableOOMScore(c, memoryCapacity)
	if IsSidecar(c) {
		// A sidecar must not die before the containers that it serves.
		for i := range pod.Spec.Containers {
			score = min(score, burstableOOMScore(&pod.Spec.Containers[i], memoryCapacity))
		}
	}
	return score
}

func burstableOOMScore(c *corev1.Container, capacity int64) int64 {
	if capacity <= 0 {
		return bestEffortOOMScore - 1
	}
	score := 1000 - 1000*c.Resources.Requests.Memory().Value()/capacity
	return min(max(score, 1000+guaranteedOOMScore), bestEffortOOMScore-1)
}

// IsSidecar reports whether an init container keeps running beside the others.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// QOSClass is the pod's class of service.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass { return cgroups.QoS(pod) }
