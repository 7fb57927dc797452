// Package ephemeralvolume creates the claims of volumes that live and die with their pod.
package ephemeralvolume

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	claims, err := env.Lister(e, &corev1.PersistentVolumeClaim{})
	if err != nil {
		return err
	}
	recorder := e.Recorder("ephemeral_volume")
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		pod, ok := pods.Find(req.Namespace, req.Name)
		if !ok || pod.DeletionTimestamp != nil {
			return ctrl.Result{}, nil
		}
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
				continue
			}
			name := ephemeral.VolumeClaimName(pod, v)
			if claim, ok := claims.Find(pod.Namespace, name); ok {
				if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
					return ctrl.Result{}, err
				}
				continue
			}
			err := e.Client.Create(ctx, claimFor(pod, v, name))
			if err != nil && !apierrors.IsAlreadyExists(err) {
				recorder.Eventf(pod, corev1.EventTypeWarning, "FailedCreate", "ephemeral volume %s: create PVC %s: %v", v.Name, name, err)
				return ctrl.Result{}, fmt.Errorf("create claim %s: %w", name, err)
			}
		}
		return ctrl.Result{}, nil
	}
	ephemeralPods := func(pod *corev1.Pod, q env.Queue) {
		for i := range pod.Spec.Volumes {
			if pod.Spec.Volumes[i].Ephemeral != nil && pod.DeletionTimestamp == nil {
				env.Add(q, client.ObjectKeyFromObject(pod))
				return
			}
		}
	}
	return e.Controller("ephemeral-volume", workers, reconcile,
		env.On(&corev1.Pod{}, env.Changes[*corev1.Pod]{Created: ephemeralPods}),
		env.On(&corev1.PersistentVolumeClaim{}, env.Changes[*corev1.PersistentVolumeClaim]{Deleted: func(claim *corev1.PersistentVolumeClaim, q env.Queue) {
			if ref := metav1.GetControllerOfNoCopy(claim); ref != nil && ref.Kind == "Pod" {
				env.Add(q, types.NamespacedName{Namespace: claim.Namespace, Name: ref.Name})
			}
		}}))
}

// claimFor returns the claim of a volume. It belongs to the pod, so the garbage collector removes it.
func claimFor(pod *corev1.Pod, v *corev1.Volume, name string) *corev1.PersistentVolumeClaim {
	template := v.Ephemeral.VolumeClaimTemplate.DeepCopy()
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: name, Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: template.Spec,
	}
}
