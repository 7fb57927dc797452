package apps

import (
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// replicaSet keeps a number of equal pods running.
var replicaSet = resource.Definition[*appsv1.ReplicaSet]{
	GroupVersion: groupVersion, Kind: "ReplicaSet", NameOnce: true, Plural: "replicasets",
	ShortNames: []string{"rs"}, Categories: []string{"all"},
	Namespaced: true, HasStatus: true, AllowUnconditionalUpdate: true,
	Default: func(rs *appsv1.ReplicaSet) {
		core.DefaultPodTemplateSpec(&rs.Spec.Template)
		resource.SetDefaultPtr(&rs.Spec.Replicas, 1)
	},
	Prepare: func(rs, _ *appsv1.ReplicaSet) { core.PreparePodTemplate(&rs.Spec.Template) },
	Validate: func(rs *appsv1.ReplicaSet) field.ErrorList {
		return validateReplicaSetSpec(&rs.Spec, nil)
	},
	ValidateUpdate: func(rs, old *appsv1.ReplicaSet) field.ErrorList {
		errs := validateReplicaSetSpec(&rs.Spec, &old.Spec)
		return append(errs, validate.Immutable(rs.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
	},
	ValidateStatus: func(rs, _ *appsv1.ReplicaSet) field.ErrorList {
		s, path := &rs.Status, field.NewPath("status")
		errs := core.ReplicaStatus{
			Replicas: s.Replicas, FullyLabeled: s.FullyLabeledReplicas, Ready: s.ReadyReplicas, Available: s.AvailableReplicas,
			ObservedGeneration: s.ObservedGeneration,
		}.Validate(path)
		return append(errs, validate.NonnegativePtr(s.TerminatingReplicas, path.Child("terminatingReplicas"))...)
	},
	Warn: func(rs, old *appsv1.ReplicaSet) []string {
		path := field.NewPath("spec", "template")
		if old == nil {
			return append(core.DNSLabelNameWarnings(rs.Name, true), core.PodTemplateWarnings(&rs.Spec.Template, nil, path)...)
		}
		if rs.Generation == old.Generation {
			return nil
		}
		return core.PodTemplateWarnings(&rs.Spec.Template, &old.Spec.Template, path)
	},
	Fields: map[string]func(*appsv1.ReplicaSet) string{
		"status.replicas": func(rs *appsv1.ReplicaSet) string { return strconv.Itoa(int(rs.Status.Replicas)) },
	},
	Scale: &resource.Scale[*appsv1.ReplicaSet]{
		Get: func(rs *appsv1.ReplicaSet) (int32, int32, string) {
			return ptr.Deref(rs.Spec.Replicas, 0), rs.Status.Replicas, selectorString(rs.Spec.Selector)
		},
		Set: func(rs *appsv1.ReplicaSet, replicas int32) { rs.Spec.Replicas = &replicas },
	},
	Columns: resource.Columns(slices.Concat(
		core.ReplicaColumns(appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc(), func(rs *appsv1.ReplicaSet) (int32, int32, int32) {
			return ptr.Deref(rs.Spec.Replicas, 0), rs.Status.Replicas, rs.Status.ReadyReplicas
		}),
		core.TemplateColumns(appsv1.ReplicaSetSpec{}.SwaggerDoc()["selector"],
			func(rs *appsv1.ReplicaSet) *corev1.PodSpec { return &rs.Spec.Template.Spec },
			func(rs *appsv1.ReplicaSet) string { return metav1.FormatLabelSelector(rs.Spec.Selector) }),
	)...),
}

func validateReplicaSetSpec(spec, old *appsv1.ReplicaSetSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validate.NonnegativePtr(spec.Replicas, path.Child("replicas"))
	errs = append(errs, validate.Nonnegative(spec.MinReadySeconds, path.Child("minReadySeconds"))...)
	errs = append(errs, validate.WorkloadSelector(spec.Selector, spec.Template.Labels, path, "deployment", "invalid label selector")...)
	var oldTemplate *corev1.PodTemplateSpec
	if old != nil {
		oldTemplate = &old.Template
	}
	return append(errs, core.ValidateReplicaTemplate(&spec.Template, oldTemplate, path.Child("template"), "ReplicaSet")...)
}
