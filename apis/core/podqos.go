package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// PodQOS returns the quality-of-service class that stands in the pod's status, else the one its spec implies.
func PodQOS(p *corev1.Pod) corev1.PodQOSClass {
	if p.Status.QOSClass != "" {
		return p.Status.QOSClass
	}
	return ComputePodQOS(p)
}

// ComputePodQOS derives the class from CPU and memory: Guaranteed if every container (or the pod as a whole) has limits for both
// and equal requests, BestEffort if nobody asks for anything, else Burstable.
func ComputePodQOS(p *corev1.Pod) corev1.PodQOSClass {
	if p.Spec.Resources != nil && len(p.Spec.Resources.Requests)+len(p.Spec.Resources.Limits) > 0 {
		return qosOf([]*corev1.ResourceRequirements{p.Spec.Resources})
	}
	var all []*corev1.ResourceRequirements
	for i := range p.Spec.InitContainers {
		all = append(all, &p.Spec.InitContainers[i].Resources)
	}
	for i := range p.Spec.Containers {
		all = append(all, &p.Spec.Containers[i].Resources)
	}
	return qosOf(all)
}

func qosOf(all []*corev1.ResourceRequirements) corev1.PodQOSClass {
	guaranteed, bestEffort := len(all) > 0, true
	for _, requirements := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := positive(requirements.Requests, name), positive(requirements.Limits, name)
			if request != nil || limit != nil {
				bestEffort = false
			}
			if limit == nil || request != nil && request.Cmp(*limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case bestEffort:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func positive(list corev1.ResourceList, name corev1.ResourceName) *resource.Quantity {
	quantity, ok := list[name]
	if !ok || quantity.Sign() <= 0 {
		return nil
	}
	return &quantity
}
