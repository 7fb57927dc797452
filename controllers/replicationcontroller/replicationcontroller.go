// Package replicationcontroller keeps the pods of ReplicationControllers. The work is that of package replicaset; this package
// translates the older kind.
package replicationcontroller

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/controllers/replicaset"
)

var kind = corev1.SchemeGroupVersion.WithKind("ReplicationController")

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	owners, err := env.Lister(e, &corev1.ReplicationController{})
	if err != nil {
		return err
	}
	k := replicaset.Kind{
		GVK: kind, NoTerminating: true,
		Find: func(key types.NamespacedName) (*appsv1.ReplicaSet, bool) {
			rc, ok := owners.Find(key.Namespace, key.Name)
			if !ok {
				return nil, false
			}
			return asSet(rc), true
		},
		Siblings: func(set *appsv1.ReplicaSet) []types.UID { return []types.UID{set.UID} },
		Fresh:    func() client.Object { return &corev1.ReplicationController{} },
		UpdateStatus: func(ctx context.Context, set *appsv1.ReplicaSet) error {
			rc, ok := owners.Find(set.Namespace, set.Name)
			if !ok {
				return nil
			}
			changed := rc.DeepCopy()
			changed.ResourceVersion = set.ResourceVersion
			changed.Status = statusFrom(set.Status)
			return e.Client.Status().Update(ctx, changed)
		},
	}
	adopters := func(pod *corev1.Pod) []types.NamespacedName {
		var keys []types.NamespacedName
		for _, rc := range owners.In(pod.Namespace) {
			if len(rc.Spec.Selector) > 0 && labels.SelectorFromSet(rc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
				keys = append(keys, client.ObjectKeyFromObject(rc))
			}
		}
		return keys
	}
	return replicaset.Wire(e, "replication", workers, k, env.For(&corev1.ReplicationController{}), adopters)
}

func asSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds, Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
			AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		set.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		set.Status.Conditions = append(set.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return set
}

func statusFrom(s appsv1.ReplicaSetStatus) corev1.ReplicationControllerStatus {
	status := corev1.ReplicationControllerStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas, ReadyReplicas: s.ReadyReplicas,
		AvailableReplicas: s.AvailableReplicas, ObservedGeneration: s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		status.Conditions = append(status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return status
}
