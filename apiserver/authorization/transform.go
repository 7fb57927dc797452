package authorization

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/apiserver/authorization/node"
)

// Transform is for the informer factory of the API server (informers.WithTransform). It drops the managed fields of all objects,
// and of pods everything but what admission, tokens and the node authorizer look at: names, owners, node, account and references.
// Nobody who needs a whole pod may read it from this factory.
func Transform(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		if m, err := meta.Accessor(obj); err == nil {
			m.SetManagedFields(nil)
		}
		return obj, nil
	}
	return trimPod(pod), nil
}

func trimPod(pod *corev1.Pod) *corev1.Pod {
	slim := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			DeletionTimestamp: pod.DeletionTimestamp,
		},
		Spec: corev1.PodSpec{
			NodeName: pod.Spec.NodeName, ServiceAccountName: pod.Spec.ServiceAccountName,
			ImagePullSecrets: pod.Spec.ImagePullSecrets, Volumes: pod.Spec.Volumes, ResourceClaims: pod.Spec.ResourceClaims,
		},
		Status: corev1.PodStatus{
			Phase: pod.Status.Phase, ResourceClaimStatuses: pod.Status.ResourceClaimStatuses,
			ExtendedResourceClaimStatus: pod.Status.ExtendedResourceClaimStatus,
		},
	}
	if mirror, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]; ok {
		slim.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: mirror}
	}
	slim.Spec.Containers = trimContainers(pod)
	return slim
}

// trimContainers keeps what containers refer to, in one container that stands for all of them.
func trimContainers(pod *corev1.Pod) []corev1.Container {
	var all corev1.Container
	for _, ref := range node.EnvironmentReferences(pod) {
		local := corev1.LocalObjectReference{Name: ref.Name}
		from := corev1.EnvFromSource{}
		if ref.Resource == "secrets" {
			from.SecretRef = &corev1.SecretEnvSource{LocalObjectReference: local}
		} else {
			from.ConfigMapRef = &corev1.ConfigMapEnvSource{LocalObjectReference: local}
		}
		all.EnvFrom = append(all.EnvFrom, from)
	}
	if all.EnvFrom == nil {
		return nil
	}
	return []corev1.Container{all}
}
