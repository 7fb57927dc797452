// Package volumeprotection keeps claims and volumes that are in use from disappearing: a finalizer holds them until the last pod or
// the claim has let go.
package volumeprotection

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/podstate"
)

const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
	classFinalizer  = "kubernetes.io/vac-protection"
)

// AddClaims wires the controller that holds claims which pods use.
func AddClaims(e *env.Env, workers int) error {
	claims, err := env.Lister(e, &corev1.PersistentVolumeClaim{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		claim, ok := claims.Find(req.Namespace, req.Name)
		if !ok {
			return ctrl.Result{}, nil
		}
		if claim.DeletionTimestamp == nil {
			return ctrl.Result{}, hold(ctx, e.Client, claim, claimFinalizer)
		}
		if !slices.Contains(claim.Finalizers, claimFinalizer) || slices.ContainsFunc(pods.In(claim.Namespace), func(pod *corev1.Pod) bool { return uses(pod, claim) }) {
			return ctrl.Result{}, nil
		}
		used, err := usedLive(ctx, e.Client, claim) // the cache may not show a pod that has just been made
		if err != nil || used {
			return ctrl.Result{}, err
		}
		return ctrl.Result{}, letGo(ctx, e.Client, claim, claimFinalizer)
	}
	claimsOf := func(pod *corev1.Pod, q env.Queue) {
		for i := range pod.Spec.Volumes {
			if name := claimName(pod, &pod.Spec.Volumes[i]); name != "" {
				env.Add(q, types.NamespacedName{Namespace: pod.Namespace, Name: name})
			}
		}
	}
	return e.Controller("persistentvolumeclaim-protection", workers, reconcile, env.For(&corev1.PersistentVolumeClaim{}),
		env.On(&corev1.Pod{}, env.Changes[*corev1.Pod]{
			Updated: func(before, after *corev1.Pod, q env.Queue) {
				if podstate.Terminal(after) && !podstate.Terminal(before) {
					claimsOf(after, q)
				}
			},
			Deleted: claimsOf,
		}))
}

func usedLive(ctx context.Context, c client.Client, claim *corev1.PersistentVolumeClaim) (bool, error) {
	var live corev1.PodList
	if err := c.List(ctx, &live, client.InNamespace(claim.Namespace)); err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	for i := range live.Items {
		if uses(&live.Items[i], claim) {
			return true, nil
		}
	}
	return false, nil
}

// uses reports whether a pod needs the claim. One that was never scheduled holds nothing, nor does one that has stopped.
func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if pod.Spec.NodeName == "" || podstate.Terminal(pod) {
		return false
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return claimName(pod, &v) == claim.Name })
}

func claimName(pod *corev1.Pod, volume *corev1.Volume) string {
	switch {
	case volume.PersistentVolumeClaim != nil:
		return volume.PersistentVolumeClaim.ClaimName
	case volume.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, volume)
	}
	return ""
}

// AddVolumes wires the controller that holds volumes which are bound.
func AddVolumes(e *env.Env, workers int) error {
	volumes, err := env.Lister(e, &corev1.PersistentVolume{})
	if err != nil {
		return err
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		volume, ok := volumes.Find("", req.Name)
		switch {
		case !ok:
			return ctrl.Result{}, nil
		case volume.DeletionTimestamp == nil:
			return ctrl.Result{}, hold(ctx, e.Client, volume, volumeFinalizer)
		case volume.Status.Phase == corev1.VolumeBound || !slices.Contains(volume.Finalizers, volumeFinalizer):
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, letGo(ctx, e.Client, volume, volumeFinalizer)
	}
	return e.Controller("persistentvolume-protection", workers, reconcile, env.For(&corev1.PersistentVolume{}))
}

func hold[T client.Object](ctx context.Context, c client.Client, obj T, finalizer string) error {
	if slices.Contains(obj.GetFinalizers(), finalizer) {
		return nil
	}
	held := obj.DeepCopyObject().(client.Object)
	held.SetFinalizers(append(held.GetFinalizers(), finalizer))
	return client.IgnoreNotFound(c.Update(ctx, held))
}

func letGo[T client.Object](ctx context.Context, c client.Client, obj T, finalizer string) error {
	free := obj.DeepCopyObject().(client.Object)
	free.SetFinalizers(slices.DeleteFunc(free.GetFinalizers(), func(f string) bool { return f == finalizer }))
	return client.IgnoreNotFound(c.Update(ctx, free))
}
