package podstatus

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/kubelet-lite/cri"
)

// setResources reports what was granted, and for a running container what is in force.
func (in Input) setResources(status *corev1.ContainerStatus, c *corev1.Container, inst *cri.Container) {
	status.AllocatedResources = c.Resources.Requests.DeepCopy()
	status.Resources = c.Resources.DeepCopy()
	if inst == nil || inst.State != cri.Running || inst.Resources == nil {
		return
	}
	actual := inst.Resources
	in.setLimit(status.Resources, c, corev1.ResourceMemory, actual.MemoryLimitInBytes, func(have *resource.Quantity) int64 { return have.Value() },
		func(v int64) resource.Quantity { return *resource.NewQuantity(v, resource.BinarySI) })
	if actual.CpuQuota >= 0 { // with CPUs of its own, a container has its limit without a quota
		in.setLimit(status.Resources, c, corev1.ResourceCPU, actual.CpuQuota, func(have *resource.Quantity) int64 { return cri.Quota(have.MilliValue()) },
			func(v int64) resource.Quantity {
				return *resource.NewMilliQuantity(milliFromQuota(actual), resource.DecimalSI)
			})
	}
	if request, ok := status.Resources.Requests[corev1.ResourceCPU]; ok && actual.CpuShares > 0 && cri.Shares(request.MilliValue()) != actual.CpuShares {
		status.Resources.Requests[corev1.ResourceCPU] = *resource.NewMilliQuantity((actual.CpuShares*1000+1023)/1024, resource.DecimalSI)
	}
}

// podResources are the pod's as a whole: what is in force of its own, and for the rest the sum of its containers.
func (in Input) podResources(requests corev1.ResourceList) *corev1.ResourceRequirements {
	out := &corev1.ResourceRequirements{Requests: requests.DeepCopy(), Limits: resourcehelper.PodLimits(in.Pod, resourcehelper.PodResourcesOptions{})}
	if own := in.PodResources; own != nil {
		maps.Copy(out.Requests, own.Requests)
		maps.Copy(out.Limits, own.Limits)
	}
	return out
}

// setLimit replaces a limit only if the runtime enforces another one, so that rounding in the kernel's units does not show. A limit that
// the container has from its pod is not its own.
func (in Input) setLimit(r *corev1.ResourceRequirements, c *corev1.Container, name corev1.ResourceName, actual int64, encode func(*resource.Quantity) int64, decode func(int64) resource.Quantity) {
	have, ok := r.Limits[name]
	inherited := cri.Limit(in.Pod, c, name)
	switch {
	case !ok && encode(&inherited) == actual:
	case actual <= 0:
		delete(r.Limits, name)
	case !ok && r.Limits == nil:
		r.Limits = corev1.ResourceList{name: decode(actual)}
	case !ok || encode(&have) != actual:
		r.Limits[name] = decode(actual)
	}
}

func milliFromQuota(r *runtimeapi.LinuxContainerResources) int64 {
	if r.CpuPeriod <= 0 {
		return 0
	}
	return r.CpuQuota * 1000 / r.CpuPeriod
}
