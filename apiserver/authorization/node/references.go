package node

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
)

// Reference names an object in the namespace of the pod that refers to it.
type Reference struct {
	Resource string // secrets, configmaps, persistentvolumeclaims, serviceaccounts or resourceclaims
	Name     string
}

// References lists what a pod refers to and its kubelet therefore reads. A static pod's mirror refers to nothing: the node could
// write any reference into it.
func References(pod *corev1.Pod) []Reference {
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return nil
	}
	var refs []Reference
	add := func(resource, name string) {
		if name != "" {
			refs = append(refs, Reference{resource, name})
		}
	}
	add("serviceaccounts", pod.Spec.ServiceAccountName)
	for _, ref := range pod.Spec.ImagePullSecrets {
		add("secrets", ref.Name)
	}
	refs = append(refs, EnvironmentReferences(pod)...)
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if volume.Ephemeral != nil {
			add("persistentvolumeclaims", ephemeral.VolumeClaimName(pod, volume))
		}
		source(&volume.VolumeSource, add)
	}
	for _, claim := range pod.Spec.ResourceClaims {
		if claim.ResourceClaimName != nil {
			add("resourceclaims", *claim.ResourceClaimName)
		}
	}
	for _, claim := range pod.Status.ResourceClaimStatuses {
		if claim.ResourceClaimName != nil {
			add("resourceclaims", *claim.ResourceClaimName)
		}
	}
	if extended := pod.Status.ExtendedResourceClaimStatus; extended != nil {
		add("resourceclaims", extended.ResourceClaimName)
	}
	return refs
}

// EnvironmentReferences lists the secrets and config maps that the environments of a pod's containers come from.
func EnvironmentReferences(pod *corev1.Pod) []Reference {
	var refs []Reference
	add := func(resource, name string) {
		if ref := (Reference{resource, name}); name != "" && !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			environment(list[i].EnvFrom, list[i].Env, add)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		environment(pod.Spec.EphemeralContainers[i].EnvFrom, pod.Spec.EphemeralContainers[i].Env, add)
	}
	return refs
}

func environment(from []corev1.EnvFromSource, env []corev1.EnvVar, add func(resource, name string)) {
	for _, e := range from {
		if e.SecretRef != nil {
			add("secrets", e.SecretRef.Name)
		}
		if e.ConfigMapRef != nil {
			add("configmaps", e.ConfigMapRef.Name)
		}
	}
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if e.ValueFrom.SecretKeyRef != nil {
			add("secrets", e.ValueFrom.SecretKeyRef.Name)
		}
		if e.ValueFrom.ConfigMapKeyRef != nil {
			add("configmaps", e.ValueFrom.ConfigMapKeyRef.Name)
		}
	}
}

func source(s *corev1.VolumeSource, add func(resource, name string)) {
	local := func(ref *corev1.LocalObjectReference) {
		if ref != nil {
			add("secrets", ref.Name)
		}
	}
	switch {
	case s.AzureFile != nil:
		add("secrets", s.AzureFile.SecretName)
	case s.Secret != nil:
		add("secrets", s.Secret.SecretName)
	case s.ConfigMap != nil:
		add("configmaps", s.ConfigMap.Name)
	case s.PersistentVolumeClaim != nil:
		add("persistentvolumeclaims", s.PersistentVolumeClaim.ClaimName)
	case s.CSI != nil:
		local(s.CSI.NodePublishSecretRef)
	case s.Cinder != nil:
		local(s.Cinder.SecretRef)
	case s.ISCSI != nil:
		local(s.ISCSI.SecretRef)
	case s.RBD != nil:
		local(s.RBD.SecretRef)
	case s.CephFS != nil:
		local(s.CephFS.SecretRef)
	case s.FlexVolume != nil:
		local(s.FlexVolume.SecretRef)
	case s.StorageOS != nil:
		local(s.StorageOS.SecretRef)
	case s.ScaleIO != nil:
		local(s.ScaleIO.SecretRef)
	case s.Projected != nil:
		for _, p := range s.Projected.Sources {
			if p.Secret != nil {
				add("secrets", p.Secret.Name)
			}
			if p.ConfigMap != nil {
				add("configmaps", p.ConfigMap.Name)
			}
		}
	}
}
