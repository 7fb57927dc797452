package apps

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// statefulSet keeps pods with names and storage of their own.
var statefulSet = resource.Definition[*appsv1.StatefulSet]{
	GroupVersion: groupVersion, Kind: "StatefulSet", NameOnce: true, Plural: "statefulsets",
	ShortNames: []string{"sts"}, Categories: []string{"all"},
	Namespaced: true, HasStatus: true, AllowUnconditionalUpdate: true,
	// A DNS label: pods are called after the set, and pods' names become host names.
	ValidateName: apivalidation.NameIsDNSLabel,
	Default:      defaultStatefulSet,
	Prepare:      func(sts, _ *appsv1.StatefulSet) { core.PreparePodTemplate(&sts.Spec.Template) },
	Validate:     func(sts *appsv1.StatefulSet) field.ErrorList { return validateStatefulSetSpec(&sts.Spec, nil) },
	ValidateUpdate: func(sts, old *appsv1.StatefulSet) field.ErrorList {
		return append(validateStatefulSetSpec(&sts.Spec, &old.Spec), validateStatefulSetChange(&sts.Spec, &old.Spec)...)
	},
	ValidateStatus: validateStatefulSetStatus,
	Warn:           warnStatefulSet,
	Scale: &resource.Scale[*appsv1.StatefulSet]{
		Get: func(sts *appsv1.StatefulSet) (int32, int32, string) {
			return ptr.Deref(sts.Spec.Replicas, 0), sts.Status.Replicas, selectorString(sts.Spec.Selector)
		},
		Set: func(sts *appsv1.StatefulSet, replicas int32) { sts.Spec.Replicas = &replicas },
	},
	Columns: resource.Columns(slices.Concat(
		[]resource.Column[*appsv1.StatefulSet]{{Name: "Ready", Description: "Number of the pod with ready state", Get: func(sts *appsv1.StatefulSet) any {
			return fmt.Sprintf("%d/%d", sts.Status.ReadyReplicas, ptr.Deref(sts.Spec.Replicas, 0))
		}}},
		core.TemplateColumns("", func(sts *appsv1.StatefulSet) *corev1.PodSpec { return &sts.Spec.Template.Spec }, nil),
	)...),
}

func defaultStatefulSet(sts *appsv1.StatefulSet) {
	spec := &sts.Spec
	core.DefaultPodTemplateSpec(&spec.Template)
	resource.SetDefaultPtr(&spec.Replicas, 1)
	resource.SetDefaultPtr(&spec.RevisionHistoryLimit, 10)
	resource.SetDefault(&spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	if spec.UpdateStrategy.Type == "" {
		spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		resource.SetDefaultPtr(&spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && spec.UpdateStrategy.RollingUpdate != nil {
		resource.SetDefaultPtr(&spec.UpdateStrategy.RollingUpdate.Partition, 0)
		resource.SetDefaultPtr(&spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	resource.SetDefaultPtr(&spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	resource.SetDefault(&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	resource.SetDefault(&spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	for i := range spec.VolumeClaimTemplates {
		claim := &spec.VolumeClaimTemplates[i]
		// Clients that read the template by reflection want to know what it is.
		claim.APIVersion, claim.Kind = "v1", "PersistentVolumeClaim"
		core.DefaultVolumeClaimSpec(&claim.Spec)
		resource.SetDefault(&claim.Status.Phase, corev1.ClaimPending)
	}
}

func validateStatefulSetSpec(spec, old *appsv1.StatefulSetSpec) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	switch policy := spec.PodManagementPolicy; policy {
	case "":
		errs = append(errs, field.Required(path.Child("podManagementPolicy"), ""))
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		errs = append(errs, field.Invalid(path.Child("podManagementPolicy"), policy,
			fmt.Sprintf("must be '%s' or '%s'", appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)))
	}
	errs = append(errs, validateStatefulSetStrategy(&spec.UpdateStrategy, path.Child("updateStrategy"))...)
	errs = append(errs, validateRetention(spec.PersistentVolumeClaimRetentionPolicy, path.Child("persistentVolumeClaimRetentionPolicy"))...)
	errs = append(errs, validate.NonnegativePtr(spec.Replicas, path.Child("replicas"))...)
	errs = append(errs, validate.Nonnegative(spec.MinReadySeconds, path.Child("minReadySeconds"))...)
	if spec.Ordinals != nil {
		errs = append(errs, validate.Nonnegative(spec.Ordinals.Start, path.Child("ordinals", "start"))...)
	}
	errs = append(errs, validate.WorkloadSelector(spec.Selector, spec.Template.Labels, path, "statefulset", "")...)
	var oldTemplate *corev1.PodTemplateSpec
	if old != nil {
		oldTemplate = withClaimVolumes(old)
	} else {
		for i := range spec.VolumeClaimTemplates {
			errs = append(errs, core.ValidatePersistentVolumeClaimSpec(&spec.VolumeClaimTemplates[i].Spec,
				path.Child("volumeClaimTemplates").Index(i).Child("spec"))...)
		}
	}
	errs = append(errs, core.ValidateReplicaTemplate(withClaimVolumes(spec), oldTemplate, path.Child("template"), "StatefulSet")...)
	if spec.ServiceName != "" && old == nil {
		errs = append(errs, validate.Messages(path.Child("serviceName"), spec.ServiceName, validation.IsDNS1123Label(spec.ServiceName))...)
	}
	return errs
}

// withClaimVolumes returns the template as the controller will use it: every claim is a volume that containers may mount, and the
// host names are its own.
func withClaimVolumes(spec *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	template := spec.Template.DeepCopy()
	template.Spec.Hostname, template.Spec.Subdomain = "", ""
	var claims []corev1.Volume
	for _, claim := range spec.VolumeClaimTemplates {
		taken := func(v corev1.Volume) bool { return v.Name == claim.Name }
		if slices.ContainsFunc(template.Spec.Volumes, taken) || slices.ContainsFunc(claims, taken) {
			continue
		}
		claims = append(claims, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name},
		}})
	}
	template.Spec.Volumes = append(claims, template.Spec.Volumes...)
	return template
}

func validateStatefulSetStrategy(s *appsv1.StatefulSetUpdateStrategy, path *field.Path) field.ErrorList {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case "":
		return field.ErrorList{field.Required(path, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Invalid(rolling, s.RollingUpdate,
				fmt.Sprintf("only allowed for updateStrategy '%s'", appsv1.RollingUpdateStatefulSetStrategyType))}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
	default:
		return field.ErrorList{field.Invalid(path, *s, fmt.Sprintf("must be '%s' or '%s'",
			appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType))}
	}
	if s.RollingUpdate == nil {
		return nil
	}
	errs := validate.NonnegativePtr(s.RollingUpdate.Partition, rolling.Child("partition"))
	if limit := s.RollingUpdate.MaxUnavailable; limit != nil {
		at := rolling.Child("maxUnavailable")
		errs = append(errs, validate.PositiveIntOrPercent(*limit, at)...)
		if amount(*limit) == 0 {
			errs = append(errs, field.Invalid(at, *limit, "cannot be 0"))
		}
		errs = append(errs, validate.AtMost100Percent(*limit, at)...)
	}
	return errs
}

func validateRetention(policy *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy, path *field.Path) field.ErrorList {
	if policy == nil {
		return nil
	}
	errs := retention(policy.WhenDeleted, path.Child("whenDeleted"))
	return append(errs, retention(policy.WhenScaled, path.Child("whenScaled"))...)
}

func retention(policy appsv1.PersistentVolumeClaimRetentionPolicyType, path *field.Path) field.ErrorList {
	return validate.OneOf(policy, path,
		appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)
}

// validateStatefulSetChange keeps what the identity of existing pods rests on.
func validateStatefulSetChange(spec, old *appsv1.StatefulSetSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validate.Immutable(spec.Selector, old.Selector, path.Child("selector"))
	errs = append(errs, validate.Immutable(spec.VolumeClaimTemplates, old.VolumeClaimTemplates, path.Child("volumeClaimTemplates"))...)
	errs = append(errs, validate.Immutable(spec.ServiceName, old.ServiceName, path.Child("serviceName"))...)
	return append(errs, validate.Immutable(spec.PodManagementPolicy, old.PodManagementPolicy, path.Child("podManagementPolicy"))...)
}

func validateStatefulSetStatus(sts, old *appsv1.StatefulSet) field.ErrorList {
	s, path := &sts.Status, field.NewPath("status")
	errs := validate.Nonnegative(s.Replicas, path.Child("replicas"))
	errs = append(errs, validate.Nonnegative(s.ReadyReplicas, path.Child("readyReplicas"))...)
	errs = append(errs, validate.Nonnegative(s.CurrentReplicas, path.Child("currentReplicas"))...)
	errs = append(errs, validate.Nonnegative(s.UpdatedReplicas, path.Child("updatedReplicas"))...)
	errs = append(errs, validate.Nonnegative(s.AvailableReplicas, path.Child("availableReplicas"))...)
	errs = append(errs, validate.Nonnegative(s.ObservedGeneration, path.Child("observedGeneration"))...)
	errs = append(errs, validate.NonnegativePtr(s.CollisionCount, path.Child("collisionCount"))...)
	for _, count := range []struct {
		name  string
		value int32
	}{
		{"readyReplicas", s.ReadyReplicas},
		{"currentReplicas", s.CurrentReplicas},
		{"updatedReplicas", s.UpdatedReplicas},
		{"availableReplicas", s.AvailableReplicas},
	} {
		if count.value > s.Replicas {
			errs = append(errs, field.Invalid(path.Child(count.name), count.value, "cannot be greater than status.replicas"))
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than status.readyReplicas"))
	}
	return append(errs, validateCollisionCount(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}

func warnStatefulSet(sts, old *appsv1.StatefulSet) []string {
	var oldTemplate *corev1.PodTemplateSpec
	var warnings []string
	if old != nil {
		oldTemplate = &old.Spec.Template
	}
	if old == nil || sts.Generation != old.Generation {
		warnings = core.PodTemplateWarnings(&sts.Spec.Template, oldTemplate, field.NewPath("spec", "template"))
	}
	for i := range sts.Spec.VolumeClaimTemplates {
		path := field.NewPath("spec", "volumeClaimTemplates").Index(i)
		if old != nil {
			path = path.Child("Spec") // as clients have always been told
		}
		warnings = append(warnings, core.VolumeClaimWarnings(&sts.Spec.VolumeClaimTemplates[i].Spec, path)...)
	}
	if limit := sts.Spec.RevisionHistoryLimit; limit != nil && *limit < 0 {
		warnings = append(warnings, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return warnings
}
