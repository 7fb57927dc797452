package statefulset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/controllers/revision"
	"keelson.dev/internal/podstate"
)

func (v *view) stamp() metav1.Time { return metav1.NewTime(v.now) }

// status counts the pods, and ends an update that has reached all of them.
func (v *view) status() appsv1.StatefulSetStatus {
	status := appsv1.StatefulSetStatus{
		ObservedGeneration: v.set.Generation,
		CurrentRevision:    v.current.Name,
		UpdateRevision:     v.update.Name,
		Conditions:         v.set.Status.Conditions,
	}
	for _, pod := range v.pods {
		status.Replicas++
		running := pod.Status.Phase == corev1.PodRunning
		if running && podstate.Ready(pod) {
			status.ReadyReplicas++
			if v.available(pod) {
				status.AvailableReplicas++
			}
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		switch pod.Labels[revision.HashLabel] {
		case v.current.Name:
			status.CurrentReplicas++
			if v.current.Name == v.update.Name {
				status.UpdatedReplicas++
			}
		case v.update.Name:
			status.UpdatedReplicas++
		}
	}
	done := status.UpdatedReplicas == status.Replicas && status.ReadyReplicas == status.Replicas && status.Replicas == ptr.Deref(v.set.Spec.Replicas, 1)
	if v.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && done {
		status.CurrentReplicas = status.UpdatedReplicas
		status.CurrentRevision = status.UpdateRevision
	}
	return status
}
