package statefulset

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ensureClaims creates those claims of a pod that do not exist.
func (r *Reconciler) ensureClaims(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	ordinal, ok := ordinalOf(set, pod)
	if !ok {
		return nil
	}
	for _, claim := range claimsOf(set, ordinal) {
		if found, ok := r.Claims.Find(claim.Namespace, claim.Name); ok {
			if found.DeletionTimestamp != nil {
				return fmt.Errorf("pvc %s is being deleted", claim.Name)
			}
			continue
		}
		claim.OwnerReferences = wantedOwners(nil, set, nil)
		err := r.Client.Create(ctx, claim)
		switch {
		case err == nil:
			r.Recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod.Name, set.Name)
		case apierrors.IsAlreadyExists(err):
		default:
			r.Recorder.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %s", claim.Name, pod.Name, set.Name, err)
			return fmt.Errorf("create claim %s: %w", claim.Name, err)
		}
	}
	return nil
}

// keepPolicies lets the owners of the claims follow the set's retention policy: a claim that should go with the set belongs to the
// set, one that should go with a scaled-down pod belongs to that pod, and the garbage collector does the rest.
func (r *Reconciler) keepPolicies(ctx context.Context, v *view) error {
	for i := range v.replicas {
		if err := r.own(ctx, v.set, start(v.set)+i, nil); err != nil {
			return err
		}
	}
	for _, pod := range v.condemned {
		ordinal, _ := ordinalOf(v.set, pod)
		if err := r.own(ctx, v.set, ordinal, pod); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reconciler) own(ctx context.Context, set *appsv1.StatefulSet, ordinal int, condemned *corev1.Pod) error {
	for _, wanted := range claimsOf(set, ordinal) {
		claim, ok := r.Claims.Find(wanted.Namespace, wanted.Name)
		if !ok {
			continue
		}
		owners := wantedOwners(claim.OwnerReferences, set, condemned)
		if slices.EqualFunc(owners, claim.OwnerReferences, func(a, b metav1.OwnerReference) bool { return a.UID == b.UID }) {
			continue
		}
		changed := claim.DeepCopy()
		changed.OwnerReferences = owners
		if err := r.Client.Update(ctx, changed); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("update claim %s: %w", claim.Name, err)
		}
	}
	return nil
}

// wantedOwners returns the owners that a claim should have. condemned is its pod if that is about to go.
func wantedOwners(have []metav1.OwnerReference, set *appsv1.StatefulSet, condemned *corev1.Pod) []metav1.OwnerReference {
	byPolicy := func(ref metav1.OwnerReference) bool {
		return ref.APIVersion == appsv1.SchemeGroupVersion.String() && ref.Kind == kind.Kind && ref.Name == set.Name ||
			ref.APIVersion == "v1" && ref.Kind == "Pod"
	}
	owners := slices.DeleteFunc(slices.Clone(have), byPolicy)
	policy := set.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil {
		return owners
	}
	deleted := policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	scaled := policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	switch {
	case condemned != nil && scaled:
		owners = append(owners, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: condemned.Name, UID: condemned.UID})
	case deleted:
		owners = append(owners, metav1.OwnerReference{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: kind.Kind, Name: set.Name, UID: set.UID})
	}
	return owners
}
