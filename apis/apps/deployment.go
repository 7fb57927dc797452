package apps

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// deployment keeps a rolling set of ReplicaSets.
var deployment = resource.Definition[*appsv1.Deployment]{
	GroupVersion: groupVersion, Kind: "Deployment", NameOnce: true, Plural: "deployments",
	ShortNames: []string{"deploy"}, Categories: []string{"all"},
	Namespaced: true, HasStatus: true, AllowUnconditionalUpdate: true,
	Default:     defaultDeployment,
	Prepare:     func(d, _ *appsv1.Deployment) { core.PreparePodTemplate(&d.Spec.Template) },
	StatusFixes: []string{"labels"},
	Validate:    validateDeployment, ValidateUpdate: validateDeploymentUpdate, ValidateStatus: validateDeploymentStatus,
	Warn: warnDeployment,
	// Annotations count too: a rollout may be steered by them.
	GenerationOf: func(d *appsv1.Deployment) any { return []any{&d.Spec, d.Annotations} },
	Scale: &resource.Scale[*appsv1.Deployment]{
		Get: func(d *appsv1.Deployment) (int32, int32, string) {
			return ptr.Deref(d.Spec.Replicas, 0), d.Status.Replicas, selectorString(d.Spec.Selector)
		},
		Set: func(d *appsv1.Deployment, replicas int32) { d.Spec.Replicas = &replicas },
	},
	Columns: resource.Columns(slices.Concat(
		[]resource.Column[*appsv1.Deployment]{
			{Name: "Ready", Description: "Number of the pod with ready state", Get: func(d *appsv1.Deployment) any {
				return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, ptr.Deref(d.Spec.Replicas, 0))
			}},
			{Name: "Up-to-date", Description: appsv1.DeploymentStatus{}.SwaggerDoc()["updatedReplicas"], Get: func(d *appsv1.Deployment) any { return int64(d.Status.UpdatedReplicas) }},
			{Name: "Available", Description: appsv1.DeploymentStatus{}.SwaggerDoc()["availableReplicas"], Get: func(d *appsv1.Deployment) any { return int64(d.Status.AvailableReplicas) }},
		},
		core.TemplateColumns(appsv1.DeploymentSpec{}.SwaggerDoc()["selector"],
			func(d *appsv1.Deployment) *corev1.PodSpec { return &d.Spec.Template.Spec },
			func(d *appsv1.Deployment) string { return metav1.FormatLabelSelector(d.Spec.Selector) }),
	)...),
}

func defaultDeployment(d *appsv1.Deployment) {
	core.DefaultPodTemplateSpec(&d.Spec.Template)
	resource.SetDefaultPtr(&d.Spec.Replicas, 1)
	resource.SetDefaultPtr(&d.Spec.RevisionHistoryLimit, 10)
	resource.SetDefaultPtr(&d.Spec.ProgressDeadlineSeconds, 600)
	strategy := &d.Spec.Strategy
	resource.SetDefault(&strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		resource.SetDefaultPtr(&strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		resource.SetDefaultPtr(&strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		resource.SetDefaultPtr(&strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList { return validateDeploymentSpec(d, nil) }

func validateDeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	errs := validateDeploymentSpec(d, old)
	return append(errs, validate.Immutable(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func validateDeploymentSpec(d, old *appsv1.Deployment) field.ErrorList {
	spec, path := &d.Spec, field.NewPath("spec")
	errs := validate.NonnegativePtr(spec.Replicas, path.Child("replicas"))
	errs = append(errs, validate.WorkloadSelector(spec.Selector, spec.Template.Labels, path, "deployment", "invalid label selector")...)
	var oldTemplate *corev1.PodTemplateSpec
	if old != nil {
		oldTemplate = &old.Spec.Template
	}
	errs = append(errs, core.ValidateReplicaTemplate(&spec.Template, oldTemplate, path.Child("template"), "ReplicaSet")...)
	errs = append(errs, validateDeploymentStrategy(&spec.Strategy, path.Child("strategy"))...)
	errs = append(errs, validate.Nonnegative(spec.MinReadySeconds, path.Child("minReadySeconds"))...)
	errs = append(errs, validate.NonnegativePtr(spec.RevisionHistoryLimit, path.Child("revisionHistoryLimit"))...)
	if spec.ProgressDeadlineSeconds == nil {
		return errs
	}
	errs = append(errs, validate.NonnegativePtr(spec.ProgressDeadlineSeconds, path.Child("progressDeadlineSeconds"))...)
	if *spec.ProgressDeadlineSeconds <= spec.MinReadySeconds {
		errs = append(errs, field.Invalid(path.Child("progressDeadlineSeconds"), *spec.ProgressDeadlineSeconds,
			"must be greater than minReadySeconds"))
	}
	return errs
}

func validateDeploymentStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"),
				"may not be specified when strategy `type` is '"+string(appsv1.RecreateDeploymentStrategyType)+"'")}
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(path.Child("rollingUpdate"), "this should be defaulted and never be nil")}
		}
		return validateRolling(s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge, path.Child("rollingUpdate"))
	default:
		return field.ErrorList{field.NotSupported(path, *s, []appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
	}
	return nil
}

// validateRolling demands that a rolling update can make progress.
func validateRolling(maxUnavailable, maxSurge *intstr.IntOrString, path *field.Path) field.ErrorList {
	unavailable, surge := ptr.Deref(maxUnavailable, intstr.IntOrString{}), ptr.Deref(maxSurge, intstr.IntOrString{})
	errs := validate.PositiveIntOrPercent(unavailable, path.Child("maxUnavailable"))
	errs = append(errs, validate.PositiveIntOrPercent(surge, path.Child("maxSurge"))...)
	if amount(unavailable) == 0 && amount(surge) == 0 {
		errs = append(errs, field.Invalid(path.Child("maxUnavailable"), maxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, validate.AtMost100Percent(unavailable, path.Child("maxUnavailable"))...)
}

// amount is the number or the percentage: enough to tell whether it is zero.
func amount(value intstr.IntOrString) int {
	if percent, ok := validate.Percent(value); ok {
		return percent
	}
	return value.IntValue()
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	s, path := &d.Status, field.NewPath("status")
	errs := validate.Nonnegative(s.ObservedGeneration, path.Child("observedGeneration"))
	errs = append(errs, validate.Nonnegative(s.Replicas, path.Child("replicas"))...)
	errs = append(errs, validate.Nonnegative(s.UpdatedReplicas, path.Child("updatedReplicas"))...)
	errs = append(errs, validate.Nonnegative(s.ReadyReplicas, path.Child("readyReplicas"))...)
	errs = append(errs, validate.Nonnegative(s.AvailableReplicas, path.Child("availableReplicas"))...)
	errs = append(errs, validate.Nonnegative(s.UnavailableReplicas, path.Child("unavailableReplicas"))...)
	errs = append(errs, validate.NonnegativePtr(s.TerminatingReplicas, path.Child("terminatingReplicas"))...)
	errs = append(errs, validate.NonnegativePtr(s.CollisionCount, path.Child("collisionCount"))...)
	const tooMany = "cannot be greater than status.replicas"
	if s.UpdatedReplicas > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("updatedReplicas"), s.UpdatedReplicas, tooMany))
	}
	if s.ReadyReplicas > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("readyReplicas"), s.ReadyReplicas, tooMany))
	}
	if s.AvailableReplicas > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, tooMany))
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return append(errs, validateCollisionCount(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}

// validateCollisionCount lets the count only grow: names of children hang on it.
func validateCollisionCount(count, old *int32, path *field.Path) field.ErrorList {
	if old != nil && ptr.Deref(count, 0) < *old {
		return field.ErrorList{field.Invalid(path, ptr.Deref(count, 0), "cannot be decremented")}
	}
	return nil
}

func warnDeployment(d, old *appsv1.Deployment) []string {
	path := field.NewPath("spec", "template")
	if old == nil {
		return append(core.DNSLabelNameWarnings(d.Name, true), core.PodTemplateWarnings(&d.Spec.Template, nil, path)...)
	}
	if d.Generation == old.Generation {
		return nil
	}
	return core.PodTemplateWarnings(&d.Spec.Template, &old.Spec.Template, path)
}
