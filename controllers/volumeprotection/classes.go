package volumeprotection

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// AddClasses wires the controller that holds VolumeAttributesClasses which claims or volumes name.
func AddClasses(e *env.Env, workers int) error {
	classes, err := env.Lister(e, &storagev1.VolumeAttributesClass{})
	if err != nil {
		return err
	}
	claims, err := env.Lister(e, &corev1.PersistentVolumeClaim{})
	if err != nil {
		return err
	}
	volumes, err := env.Lister(e, &corev1.PersistentVolume{})
	if err != nil {
		return err
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		class, ok := classes.Find("", req.Name)
		if !ok {
			return ctrl.Result{}, nil
		}
		if class.DeletionTimestamp == nil {
			return ctrl.Result{}, hold(ctx, e.Client, class, classFinalizer)
		}
		if !slices.Contains(class.Finalizers, classFinalizer) || named(class.Name, claims.All(), volumes.All()) {
			return ctrl.Result{}, nil
		}
		used, err := namedLive(ctx, e.Client, class.Name) // the cache may not show a claim that has just been made
		if err != nil || used {
			return ctrl.Result{}, err
		}
		return ctrl.Result{}, letGo(ctx, e.Client, class, classFinalizer)
	}
	return e.Controller("volumeattributesclass-protection", workers, reconcile, env.For(&storagev1.VolumeAttributesClass{}),
		env.On(&corev1.PersistentVolumeClaim{}, env.Changes[*corev1.PersistentVolumeClaim]{
			Updated: func(before, after *corev1.PersistentVolumeClaim, q env.Queue) {
				wakeLost(classesOfClaim(before), classesOfClaim(after), q)
			},
			Deleted: func(claim *corev1.PersistentVolumeClaim, q env.Queue) { wakeLost(classesOfClaim(claim), nil, q) },
		}),
		env.On(&corev1.PersistentVolume{}, env.Changes[*corev1.PersistentVolume]{
			Updated: func(before, after *corev1.PersistentVolume, q env.Queue) {
				wakeLost(classesOfVolume(before), classesOfVolume(after), q)
			},
			Deleted: func(volume *corev1.PersistentVolume, q env.Queue) { wakeLost(classesOfVolume(volume), nil, q) },
		}))
}

// wakeLost wakes the classes that are named no more.
func wakeLost(before, after []string, q env.Queue) {
	for _, class := range before {
		if !slices.Contains(after, class) {
			env.Add(q, types.NamespacedName{Name: class})
		}
	}
}

// classesOfClaim returns the classes that a claim asks for, has, or is being changed to.
func classesOfClaim(claim *corev1.PersistentVolumeClaim) []string {
	names := []string{ptr.Deref(claim.Spec.VolumeAttributesClassName, ""), ptr.Deref(claim.Status.CurrentVolumeAttributesClassName, "")}
	if modify := claim.Status.ModifyVolumeStatus; modify != nil {
		names = append(names, modify.TargetVolumeAttributesClassName)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

func classesOfVolume(volume *corev1.PersistentVolume) []string {
	if name := ptr.Deref(volume.Spec.VolumeAttributesClassName, ""); name != "" {
		return []string{name}
	}
	return nil
}

func named(class string, claims []*corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume) bool {
	return slices.ContainsFunc(claims, func(c *corev1.PersistentVolumeClaim) bool { return slices.Contains(classesOfClaim(c), class) }) ||
		slices.ContainsFunc(volumes, func(v *corev1.PersistentVolume) bool { return slices.Contains(classesOfVolume(v), class) })
}

func namedLive(ctx context.Context, c client.Client, class string) (bool, error) {
	var claims corev1.PersistentVolumeClaimList
	if err := c.List(ctx, &claims); err != nil {
		return false, fmt.Errorf("list claims: %w", err)
	}
	var volumes corev1.PersistentVolumeList
	if err := c.List(ctx, &volumes); err != nil {
		return false, fmt.Errorf("list volumes: %w", err)
	}
	return slices.ContainsFunc(claims.Items, func(c corev1.PersistentVolumeClaim) bool { return slices.Contains(classesOfClaim(&c), class) }) ||
		slices.ContainsFunc(volumes.Items, func(v corev1.PersistentVolume) bool { return slices.Contains(classesOfVolume(&v), class) }), nil
}
