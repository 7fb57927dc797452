package nodeinfo

import (
	"errors"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	fwk "k8s.io/kube-scheduler/framework"
)

// PodInfo is a pod with what the scheduler computes from it once: its requests and its parsed affinity terms. It is immutable.
type PodInfo struct {
	pod                   *corev1.Pod
	resource              fwk.PodResource
	ports                 []corev1.ContainerPort
	claims                []string
	requiredAffinity      []fwk.AffinityTerm
	requiredAntiAffinity  []fwk.AffinityTerm
	preferredAffinity     []fwk.WeightedAffinityTerm
	preferredAntiAffinity []fwk.WeightedAffinityTerm
}

var _ fwk.PodInfo = &PodInfo{}

// NewPodInfo parses a pod. On an error (a selector that validation should have refused) the PodInfo is usable without the terms
// that did not parse.
func NewPodInfo(pod *corev1.Pod) (*PodInfo, error) {
	p := &PodInfo{pod: pod, resource: podResource(pod), ports: HostPorts(pod), claims: ClaimKeys(pod)}

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

// Renew returns the data for a newer version of a pod; from an older version, which may be nil, it takes what cannot have changed.
func Renew(old *PodInfo, pod *corev1.Pod) (*PodInfo, error) {
	if old != nil && pod.Generation != 0 && old.pod.UID == pod.UID && old.pod.Generation == pod.Generation &&
		!StatusHasResources(old.pod) && !StatusHasResources(pod) {
		return old.WithPod(pod), nil
	}
	return NewPodInfo(pod)
}

// WithPod returns the same precomputed data for a copy of the pod that differs in nothing it was computed from.
func (p *PodInfo) WithPod(pod *corev1.Pod) *PodInfo {
	out := *p
	out.pod = pod
	return &out
}

// CountsAs says whether a newer version of the pod counts for other pods exactly as this one does.
func (p *PodInfo) CountsAs(newer *PodInfo) bool {
	a, b := p.pod, newer.pod
	return a.Spec.NodeName == b.Spec.NodeName && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		maps.Equal(a.Labels, b.Labels) && controller(a) == controller(b) &&
		p.resource.Non0CPU == newer.resource.Non0CPU && p.resource.Non0Mem == newer.resource.Non0Mem &&
		equality.Semantic.DeepEqual(p.resource.Resource, newer.resource.Resource)
}

func controller(pod *corev1.Pod) types.UID {
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		return owner.UID
	}
	return ""
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
