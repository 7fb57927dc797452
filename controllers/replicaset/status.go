package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"keelson.dev/internal/podstate"
)

// statusOf computes the status from the owned pods. manageErr is what the last attempt to create or delete pods ended with.
func statusOf(set *appsv1.ReplicaSet, active, terminating []*corev1.Pod, manageErr error, now time.Time) appsv1.ReplicaSetStatus {
	template := labels.Set(set.Spec.Template.Labels).AsSelectorPreValidated()
	status := appsv1.ReplicaSetStatus{
		Replicas:            int32(len(active)),
		TerminatingReplicas: new(int32(len(terminating))),
		ObservedGeneration:  set.Generation,
		Conditions:          slices.Clone(set.Status.Conditions),
	}
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if podstate.Ready(pod) {
			status.ReadyReplicas++
		}
		if podstate.Available(pod, set.Spec.MinReadySeconds, now) {
			status.AvailableReplicas++
		}
	}
	status.Conditions = withFailure(status.Conditions, manageErr, len(active) < int(ptr.Deref(set.Spec.Replicas, 1)), now)
	return status
}

// withFailure sets or removes the condition ReplicaFailure.
func withFailure(conditions []appsv1.ReplicaSetCondition, err error, creating bool, now time.Time) []appsv1.ReplicaSetCondition {
	isFailure := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	if err == nil {
		return slices.DeleteFunc(conditions, isFailure)
	}
	if slices.ContainsFunc(conditions, isFailure) {
		return conditions
	}
	reason := "FailedDelete"
	if creating {
		reason = "FailedCreate"
	}
	return append(conditions, appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason, Message: err.Error(),
		LastTransitionTime: metav1.NewTime(now),
	})
}
