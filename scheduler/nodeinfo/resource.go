package nodeinfo

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	fwk "k8s.io/kube-scheduler/framework"
)

// Requests that a container without its own is counted with when nodes are scored, so that pods without requests do not pile up
// on one node. The values are part of upstream's scoring behaviour.
const (
	DefaultMilliCPURequest int64 = 100
	DefaultMemoryRequest   int64 = 200 * 1024 * 1024
)

// Resource is an amount of each compute resource: milli-CPUs, bytes, bytes, pods, and units of anything else.
type Resource struct {
	MilliCPU         int64
	Memory           int64
	EphemeralStorage int64
	AllowedPodNumber int
	ScalarResources  map[corev1.ResourceName]int64
}

var _ fwk.Resource = &Resource{}

// NewResource converts a resource list.
func NewResource(list corev1.ResourceList) Resource {
	var r Resource
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = quantity.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			r.EphemeralStorage = quantity.Value()
		case corev1.ResourcePods:
			r.AllowedPodNumber = int(quantity.Value())
		default:
			r.setScalar(name, quantity.Value())
		}
	}
	return r
}

// PodRequests returns what a pod asks for in total: containers, init containers, pod-level resources and overhead; for a running
// pod that is being resized, the larger of the old and the new.
func PodRequests(pod *corev1.Pod) corev1.ResourceList {
	return resourcehelper.PodRequests(pod, podResourceOptions(nil))
}

// podResource returns the sums of a pod. Most pods have containers only, and those are added up without the detour over quantities.
func podResource(pod *corev1.Pod) fwk.PodResource {
	if !plain(pod) {
		requests := PodRequests(pod)
		r := NewResource(requests)
		out := fwk.PodResource{Resource: &r}
		out.Non0CPU, out.Non0Mem = NonZeroRequests(pod, requests)
		return out
	}
	sum := &Resource{}
	out := fwk.PodResource{Resource: sum}
	for i := range pod.Spec.Containers {
		requests := pod.Spec.Containers[i].Resources.Requests
		r := NewResource(requests)
		sum.add(&r, 1)
		sum.AllowedPodNumber += r.AllowedPodNumber
		out.Non0CPU += orDefault(requests, corev1.ResourceCPU, r.MilliCPU, DefaultMilliCPURequest)
		out.Non0Mem += orDefault(requests, corev1.ResourceMemory, r.Memory, DefaultMemoryRequest)
	}
	return out
}

func orDefault(requests corev1.ResourceList, name corev1.ResourceName, value, missing int64) int64 {
	if _, ok := requests[name]; ok {
		return value
	}
	return missing
}

// plain says whether the pod's requests are those of its containers, and nothing else.
func plain(pod *corev1.Pod) bool {
	for i := range pod.Spec.Containers {
		for name, q := range pod.Spec.Containers[i].Resources.Requests {
			if _, whole := q.AsInt64(); !whole && name != corev1.ResourceCPU {
				return false // fractions are added up before they are rounded
			}
		}
	}
	return pod.Spec.Resources == nil && len(pod.Spec.InitContainers) == 0 && len(pod.Spec.Overhead) == 0 && !StatusHasResources(pod)
}

// StatusHasResources says whether the kubelet has reported resources, which count besides those of the spec while a pod is resized.
func StatusHasResources(pod *corev1.Pod) bool {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Resources != nil || list[i].AllocatedResources != nil {
				return true
			}
		}
	}
	return pod.Status.Resources != nil || pod.Status.AllocatedResources != nil
}

func podResourceOptions(nonMissing corev1.ResourceList) resourcehelper.PodResourcesOptions {
	return resourcehelper.PodResourcesOptions{
		UseStatusResources: true,
		InPlacePodLevelResourcesVerticalScalingEnabled: true,
		NonMissingContainerRequests:                    nonMissing,
	}
}

// NonZeroRequests returns a pod's CPU and memory with the defaults of this package for containers that ask for none.
func NonZeroRequests(pod *corev1.Pod, requests corev1.ResourceList) (milliCPU, memory int64) {
	nonMissing := corev1.ResourceList{}
	podLevel := resourcehelper.IsPodLevelRequestsSet(pod)
	if _, ok := requests[corev1.ResourceCPU]; !ok || !podLevel {
		nonMissing[corev1.ResourceCPU] = *resource.NewMilliQuantity(DefaultMilliCPURequest, resource.DecimalSI)
	}
	if _, ok := requests[corev1.ResourceMemory]; !ok || !podLevel {
		nonMissing[corev1.ResourceMemory] = *resource.NewQuantity(DefaultMemoryRequest, resource.BinarySI)
	}
	full := requests
	if len(nonMissing) > 0 {
		full = resourcehelper.PodRequests(pod, podResourceOptions(nonMissing))
	}
	return full.Cpu().MilliValue(), full.Memory().Value()
}

// Of returns the amount of one named resource.
func (r *Resource) Of(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.MilliCPU
	case corev1.ResourceMemory:
		return r.Memory
	case corev1.ResourceEphemeralStorage:
		return r.EphemeralStorage
	case corev1.ResourcePods:
		return int64(r.AllowedPodNumber)
	default:
		return r.ScalarResources[name]
	}
}

// OfInterface is Of for a resource that another implementation of the framework may have made.
func OfInterface(r fwk.Resource, name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.GetMilliCPU()
	case corev1.ResourceMemory:
		return r.GetMemory()
	case corev1.ResourceEphemeralStorage:
		return r.GetEphemeralStorage()
	case corev1.ResourcePods:
		return int64(r.GetAllowedPodNumber())
	default:
		return r.GetScalarResources()[name]
	}
}

func (r *Resource) setScalar(name corev1.ResourceName, value int64) {
	if r.ScalarResources == nil {
		r.ScalarResources = map[corev1.ResourceName]int64{}
	}
	r.ScalarResources[name] = value
}

// add adds sign times other.
func (r *Resource) add(other fwk.Resource, sign int64) {
	r.MilliCPU += sign * other.GetMilliCPU()
	r.Memory += sign * other.GetMemory()
	r.EphemeralStorage += sign * other.GetEphemeralStorage()
	for name, value := range other.GetScalarResources() {
		r.setScalar(name, r.ScalarResources[name]+sign*value)
	}
}

func (r *Resource) clone() Resource {
	out := *r
	out.ScalarResources = maps.Clone(r.ScalarResources)
	return out
}

// GetMilliCPU implements fwk.Resource.
func (r *Resource) GetMilliCPU() int64 { return r.MilliCPU }

// GetMemory implements fwk.Resource.
func (r *Resource) GetMemory() int64 { return r.Memory }

// GetEphemeralStorage implements fwk.Resource.
func (r *Resource) GetEphemeralStorage() int64 { return r.EphemeralStorage }

// GetAllowedPodNumber implements fwk.Resource.
func (r *Resource) GetAllowedPodNumber() int { return r.AllowedPodNumber }

// GetScalarResources implements fwk.Resource.
func (r *Resource) GetScalarResources() map[corev1.ResourceName]int64 { return r.ScalarResources }

// SetMaxResource raises each resource to the list's value.
func (r *Resource) SetMaxResource(list corev1.ResourceList) {
	other := NewResource(list)
	r.MilliCPU = max(r.MilliCPU, other.MilliCPU)
	r.Memory = max(r.Memory, other.Memory)
	r.EphemeralStorage = max(r.EphemeralStorage, other.EphemeralStorage)
	for name, value := range other.ScalarResources {
		r.setScalar(name, max(r.ScalarResources[name], value))
	}
}
