package resourceclaim

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	draclaim "k8s.io/dynamic-resource-allocation/resourceclaim"

	"keelson.dev/internal/podstate"
)

// done reports whether a pod will never use its devices again.
func done(pod *corev1.Pod) bool {
	return podstate.Terminal(pod) || pod.DeletionTimestamp != nil && pod.Spec.NodeName == ""
}

// claimPlan is what to write to a claim: the status first, so that devices are free before nothing holds the claim any more.
type claimPlan struct {
	status *resourcev1.ResourceClaimStatus // nil: as it is
	free   bool                            // remove our finalizer
}

// planClaim says what follows from the reservations that are still valid. The last one takes the allocation with it.
func planClaim(claim *resourcev1.ResourceClaim, valid []resourcev1.ResourceClaimConsumerReference) claimPlan {
	held := slices.Contains(claim.Finalizers, resourcev1.Finalizer)
	lost := len(valid) < len(claim.Status.ReservedFor)
	deallocate := len(valid) == 0 && held && (lost || claim.DeletionTimestamp != nil)
	plan := claimPlan{free: held && len(valid) == 0 && (deallocate || claim.Status.Allocation == nil && claim.DeletionTimestamp != nil)}
	if !lost && (!deallocate || claim.Status.Allocation == nil) {
		return plan
	}
	status := claim.Status.DeepCopy()
	status.ReservedFor = valid
	if deallocate {
		status.Allocation, status.Devices = nil, nil
	}
	plan.status = status
	return plan
}

// claimFor returns the claim that a template describes. It belongs to the pod, so the garbage collector removes it.
func claimFor(pod *corev1.Pod, ask string, template *resourcev1.ResourceClaimTemplate) *resourcev1.ResourceClaim {
	owner := metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))
	spec := template.Spec.DeepCopy()
	meta := metav1.ObjectMeta{
		Namespace: pod.Namespace, GenerateName: pod.Name + "-" + ask + "-", Labels: spec.Labels, Annotations: spec.Annotations,
		OwnerReferences: []metav1.OwnerReference{*owner},
	}
	metav1.SetMetaDataAnnotation(&meta, resourcev1.PodResourceClaimAnnotation, ask)
	return &resourcev1.ResourceClaim{ObjectMeta: meta, Spec: spec.Spec}
}

// claimStatuses returns which claim stands for each line of the pod's spec, and whether the pod's status does not say so yet.
func claimStatuses(pod *corev1.Pod, made map[string]string) ([]corev1.PodResourceClaimStatus, bool) {
	var statuses []corev1.PodResourceClaimStatus
	for i := range pod.Spec.ResourceClaims {
		if name, ok := made[pod.Spec.ResourceClaims[i].Name]; ok {
			statuses = append(statuses, corev1.PodResourceClaimStatus{Name: pod.Spec.ResourceClaims[i].Name, ResourceClaimName: new(name)})
		}
	}
	return statuses, !draclaim.PodStatusEqual(statuses, pod.Status.ResourceClaimStatuses)
}
