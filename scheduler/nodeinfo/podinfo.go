package nodeinfo

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"
)

// PodInfo is a pod with what the scheduler computes from it once: its requests and its parsed affinity terms. It is immutable.
type PodInfo struct {
	pod                   *corev1.Pod
	resource              fwk.PodResource
	requiredAffinity      []fwk.AffinityTerm
	requiredAntiAffinity  []fwk.AffinityTerm
	preferredAffinity     []fwk.WeightedAffinityTerm
	preferredAntiAffinity []fwk.WeightedAffinityTerm
}

var _ fwk.PodInfo = &PodInfo{}

// NewPodInfo parses a pod. On an error (a selector that validation should have refused) the PodInfo is usable without the terms
// that did not parse.
func NewPodInfo(pod *corev1.Pod) (*PodInfo, error) {
	requests := PodRequests(pod)
	r := NewResource(requests)
	p := &PodInfo{pod: pod, resource: fwk.PodResource{Resource: &r}}
	p.resource.Non0CPU, p.resource.Non0Mem = NonZeroRequests(pod, requests)

	affinity := pod.Spec.Affinity
	if affinity == nil {
		return p, nil
	}
	var errs [4]error
	if a := affinity.PodAffinity; a != nil {
		p.requiredAffinity, errs[0] = fwk.GetAffinityTerms(pod, a.RequiredDuringSchedulingIgnoredDuringExecution)
		p.preferredAffinity, errs[1] = fwk.GetWeightedAffinityTerms(pod, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := affinity.PodAntiAffinity; a != nil {
		p.requiredAntiAffinity, errs[2] = fwk.GetAffinityTerms(pod, a.RequiredDuringSchedulingIgnoredDuringExecution)
		p.preferredAntiAffinity, errs[3] = fwk.GetWeightedAffinityTerms(pod, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return p, errors.Join(errs[:]...)
}

// WithPod returns the same precomputed data for a copy of the pod that differs in nothing it was computed from.
func (p *PodInfo) WithPod(pod *corev1.Pod) *PodInfo {
	out := *p
	out.pod = pod
	return &out
}

// GetPod implements fwk.PodInfo.
func (p *PodInfo) GetPod() *corev1.Pod { return p.pod }

// GetRequiredAffinityTerms implements fwk.PodInfo.
func (p *PodInfo) GetRequiredAffinityTerms() []fwk.AffinityTerm { return p.requiredAffinity }

// GetRequiredAntiAffinityTerms implements fwk.PodInfo.
func (p *PodInfo) GetRequiredAntiAffinityTerms() []fwk.AffinityTerm { return p.requiredAntiAffinity }

// GetPreferredAffinityTerms implements fwk.PodInfo.
func (p *PodInfo) GetPreferredAffinityTerms() []fwk.WeightedAffinityTerm { return p.preferredAffinity }

// GetPreferredAntiAffinityTerms implements fwk.PodInfo.
func (p *PodInfo) GetPreferredAntiAffinityTerms() []fwk.WeightedAffinityTerm {
	return p.preferredAntiAffinity
}

// CalculateResource implements fwk.PodInfo.
func (p *PodInfo) CalculateResource() fwk.PodResource { return p.resource }

func hasAffinity(p fwk.PodInfo) bool {
	return len(p.GetRequiredAffinityTerms())+len(p.GetRequiredAntiAffinityTerms())+
		len(p.GetPreferredAffinityTerms())+len(p.GetPreferredAntiAffinityTerms()) > 0
}

func hasRequiredAntiAffinity(p fwk.PodInfo) bool { return len(p.GetRequiredAntiAffinityTerms()) > 0 }
