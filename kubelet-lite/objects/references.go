package objects

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// References lists every ConfigMap and Secret that a pod's spec names.
func References(pod *corev1.Pod) map[Key]struct{} {
	refs := map[Key]struct{}{}
	add := func(kind Kind, name string) {
		if name != "" {
			refs[Key{kind, types.NamespacedName{Namespace: pod.Namespace, Name: name}}] = struct{}{}
		}
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		add(Secret, s.Name)
	}
	for i := range pod.Spec.InitContainers {
		addEnv(&pod.Spec.InitContainers[i], add)
	}
	for i := range pod.Spec.Containers {
		addEnv(&pod.Spec.Containers[i], add)
	}
	for i := range pod.Spec.EphemeralContainers {
		c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		addEnv(&c, add)
	}
	for i := range pod.Spec.Volumes {
		addVolume(&pod.Spec.Volumes[i], add)
	}
	return refs
}

func addEnv(c *corev1.Container, add func(Kind, string)) {
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			add(ConfigMap, from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			add(Secret, from.SecretRef.Name)
		}
	}
	for _, env := range c.Env {
		if env.ValueFrom == nil {
			continue
		}
		if ref := env.ValueFrom.ConfigMapKeyRef; ref != nil {
			add(ConfigMap, ref.Name)
		}
		if ref := env.ValueFrom.SecretKeyRef; ref != nil {
			add(Secret, ref.Name)
		}
	}
}

func addVolume(v *corev1.Volume, add func(Kind, string)) {
	switch {
	case v.ConfigMap != nil:
		add(ConfigMap, v.ConfigMap.Name)
	case v.Secret != nil:
		add(Secret, v.Secret.SecretName)
	case v.CSI != nil && v.CSI.NodePublishSecretRef != nil:
		add(Secret, v.CSI.NodePublishSecretRef.Name)
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			if source.ConfigMap != nil {
				add(ConfigMap, source.ConfigMap.Name)
			}
			if source.Secret != nil {
				add(Secret, source.Secret.Name)
			}
		}
	}
}
