package cgroups

import (
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// What the kernel accepts as CPU shares, and the period over which a quota is counted.
const (
	minShares  = 2
	maxShares  = 262144
	periodUS   = 100_000
	minQuotaUS = 1000
)

// limits are what a group enforces. Zero means that a value is left as it is; -1 lifts it.
type limits struct {
	shares  int64
	quotaUS int64
	memory  int64
	pids    int64
	huge    map[string]int64 // page size as in "2MB" → bytes
}

func rootLimits(allocatable corev1.ResourceList, enforce bool) limits {
	l := limits{shares: sharesFor(allocatable.Cpu().MilliValue())}
	if !enforce {
		return l
	}
	l.memory = allocatable.Memory().Value()
	if pids, ok := allocatable["pid"]; ok {
		l.pids = pids.Value()
	}
	return l
}

// podLimits sums up what the pod's containers may use together. A limit exists only where none of them is unlimited.
func podLimits(pod *corev1.Pod, cfg Config) limits {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	unlimited := map[corev1.ResourceName]bool{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if q := c.Resources.Limits[name]; q.IsZero() {
				unlimited[name] = true
			}
		}
	}
	most := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	limit := func(name corev1.ResourceName) bool {
		if pod.Spec.Resources != nil {
			if q := pod.Spec.Resources.Limits[name]; !q.IsZero() {
				return true
			}
		}
		q := most[name]
		return !unlimited[name] && !q.IsZero()
	}
	l := limits{shares: sharesFor(requests.Cpu().MilliValue()), quotaUS: -1, memory: -1, pids: cfg.PodPidsLimit, huge: map[string]int64{}}
	if limit(corev1.ResourceCPU) && !cfg.NoCPUQuota && (cfg.Exclusive == nil || !cfg.Exclusive(pod.UID)) {
		l.quotaUS = quotaFor(most.Cpu().MilliValue())
	}
	if limit(corev1.ResourceMemory) {
		l.memory = most.Memory().Value()
	}
	for name, q := range most {
		if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
			l.huge[hugeFileSize(size)] = q.Value()
		}
	}
	return l
}

// hugeFileSize turns 2Mi into the 2MB of the kernel's file names.
func hugeFileSize(size string) string {
	return strings.NewReplacer("Ki", "KB", "Mi", "MB", "Gi", "GB").Replace(size)
}

// burstableShares: the class as a whole competes with guaranteed pods by what its pods request.
func burstableShares(pods []*corev1.Pod) int64 {
	var milli int64
	for _, pod := range pods {
		if QoS(pod) == corev1.PodQOSBurstable {
			requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
			milli += requests.Cpu().MilliValue()
		}
	}
	return sharesFor(milli)
}

func sharesFor(milliCPU int64) int64 {
	return min(max(milliCPU*1024/1000, minShares), maxShares)
}

func quotaFor(milliCPU int64) int64 {
	return max(milliCPU*periodUS/1000, minQuotaUS)
}

// weightFor maps v1's shares [2, 262144] on v2's weight [1, 10000].
func weightFor(shares int64) int64 {
	return 1 + (shares-minShares)*9999/(maxShares-minShares)
}

// QoS is the class that the API server records in the status; it is computed for pods that have not been there.
func QoS(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	if pod.Spec.Resources != nil && (len(pod.Spec.Resources.Requests) > 0 || len(pod.Spec.Resources.Limits) > 0) {
		return qosOf([]corev1.ResourceRequirements{*pod.Spec.Resources})
	}
	var all []corev1.ResourceRequirements
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		all = append(all, c.Resources)
	}
	return qosOf(all)
}

func qosOf(all []corev1.ResourceRequirements) corev1.PodQOSClass {
	guaranteed, any := true, false
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			any = any || request.Sign() > 0 || limit.Sign() > 0
			// An unset request equals the limit by default.
			_, requested := r.Requests[name]
			guaranteed = guaranteed && limit.Sign() > 0 && (!requested || request.Cmp(limit) == 0)
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// values turns limits into files of the given cgroup version: file name → content, and for v1 which controller has the file.
func (l limits) values(v2 bool) map[string]string {
	out := map[string]string{}
	if v2 {
		set(out, "cpu.weight", weightOrZero(l.shares), "max")
		switch {
		case l.quotaUS > 0:
			out["cpu.max"] = decimal(l.quotaUS) + " " + decimal(periodUS)
		case l.quotaUS < 0:
			out["cpu.max"] = "max " + decimal(periodUS)
		}
		set(out, "memory.max", l.memory, "max")
	} else {
		set(out, "cpu.shares", l.shares, "")
		if l.quotaUS != 0 {
			out["cpu.cfs_period_us"] = decimal(periodUS)
		}
		set(out, "cpu.cfs_quota_us", l.quotaUS, "-1")
		set(out, "memory.limit_in_bytes", l.memory, "-1")
	}
	set(out, "pids.max", l.pids, "max")
	for size, bytes := range l.huge {
		file := "hugetlb." + size + ".limit_in_bytes"
		if v2 {
			file = "hugetlb." + size + ".max"
		}
		out[file] = decimal(bytes)
	}
	return out
}

func weightOrZero(shares int64) int64 {
	if shares == 0 {
		return 0
	}
	return weightFor(shares)
}

func set(out map[string]string, file string, value int64, lifted string) {
	switch {
	case value > 0 && value < math.MaxInt64:
		out[file] = decimal(value)
	case value < 0 && lifted != "":
		out[file] = lifted
	}
}

// sortedFiles puts the quota's period before the quota, as the kernel checks one against the other.
func sortedFiles(values map[string]string) []string { return slices.Sorted(maps.Keys(values)) }

// The priorities of the classes system-cluster-critical and system-node-critical.
const (
	CriticalPriority     = 2_000_000_000
	NodeCriticalPriority = CriticalPriority + 1000
)

// HasPriority reports whether a pod has at least a priority.
func HasPriority(pod *corev1.Pod, least int32) bool {
	return pod.Spec.Priority != nil && *pod.Spec.Priority >= least
}
