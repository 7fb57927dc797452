// Package volumeexpansion hands claims that ask for more space to the resizer of their driver. No volume is resized here: every driver
// is an external one.
package volumeexpansion

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// resizer is the annotation by which the driver's resizer finds the claims it is responsible for.
const resizer = "volume.kubernetes.io/storage-resizer"

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	claims, err := env.Lister(e, &corev1.PersistentVolumeClaim{})
	if err != nil {
		return err
	}
	volumes, err := env.Lister(e, &corev1.PersistentVolume{})
	if err != nil {
		return err
	}
	recorder := e.Recorder("volume_expand")
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		claim, ok := claims.Find(req.Namespace, req.Name)
		if !ok || !wantsMore(claim) {
			return ctrl.Result{}, nil
		}
		volume, ok := volumes.Find("", claim.Spec.VolumeName)
		if !ok || volume.Spec.ClaimRef == nil || volume.Spec.ClaimRef.UID != claim.UID {
			return ctrl.Result{}, fmt.Errorf("volume %q is not bound to the claim", claim.Spec.VolumeName) // or not in the cache yet
		}
		if volume.Spec.CSI == nil {
			recorder.Event(claim, corev1.EventTypeWarning, "ExternalExpanding", "waiting for an external controller to expand this PVC")
			return ctrl.Result{}, nil
		}
		driver := volume.Spec.CSI.Driver
		if claim.Annotations[resizer] == driver {
			return ctrl.Result{}, nil
		}
		changed := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, resizer, driver)
		if err := e.Client.Status().Update(ctx, changed); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
		recorder.Event(claim, corev1.EventTypeNormal, "ExternalExpanding", "waiting for an external controller to expand this PVC")
		return ctrl.Result{}, nil
	}
	return e.Controller("volume-expand", workers, reconcile, env.On(&corev1.PersistentVolumeClaim{}, env.Changes[*corev1.PersistentVolumeClaim]{
		Created: func(claim *corev1.PersistentVolumeClaim, q env.Queue) {
			if wantsMore(claim) {
				env.Add(q, client.ObjectKeyFromObject(claim))
			}
		},
		Updated: func(before, after *corev1.PersistentVolumeClaim, q env.Queue) {
			if wantsMore(after) && !wantsMore(before) {
				env.Add(q, client.ObjectKeyFromObject(after))
			}
		},
	}))
}

// wantsMore reports whether a bound claim asks for more than it has.
func wantsMore(claim *corev1.PersistentVolumeClaim) bool {
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" || claim.DeletionTimestamp != nil {
		return false
	}
	asked, has := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	return asked.Cmp(has) > 0
}
