package cri

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// ContainerReference is what an event about one container of a pod refers to; an empty name means the pod itself.
func ContainerReference(pod *corev1.Pod, container string) *corev1.ObjectReference {
	ref := &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
	if container == "" {
		return ref
	}
	for field, list := range map[string][]corev1.Container{"containers": pod.Spec.Containers, "initContainers": pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == container {
				ref.FieldPath = fmt.Sprintf("spec.%s{%s}", field, container)
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == container {
			ref.FieldPath = fmt.Sprintf("spec.ephemeralContainers{%s}", container)
		}
	}
	return ref
}
