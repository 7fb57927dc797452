package core

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// replicationController is the ancestor of ReplicaSet: equality selectors only.
var replicationController = resource.Definition[*corev1.ReplicationController]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "ReplicationController", NameOnce: true, Plural: "replicationcontrollers",
	ShortNames: []string{"rc"}, Categories: []string{"all"},
	Namespaced: true, HasStatus: true, OrphanDependents: true, AllowUnconditionalUpdate: true,
	ValidateName: func(name string, prefix bool) []string {
		if prefix {
			return nil // only the name that becomes of it counts
		}
		return content.IsDNS1123Subdomain(name)
	},
	Default: defaultReplicationController,
	Prepare: func(rc, _ *corev1.ReplicationController) {
		if rc.Spec.Template != nil {
			PreparePodTemplate(rc.Spec.Template)
		}
	},
	Validate: validateReplicationController, ValidateUpdate: validateReplicationControllerUpdate,
	ValidateStatus: validateReplicationControllerStatus,
	Warn:           warnReplicationController,
	Fields: map[string]func(*corev1.ReplicationController) string{
		"status.replicas": func(rc *corev1.ReplicationController) string { return strconv.Itoa(int(rc.Status.Replicas)) },
	},
	Scale: &resource.Scale[*corev1.ReplicationController]{
		Get: func(rc *corev1.ReplicationController) (int32, int32, string) {
			return ptr.Deref(rc.Spec.Replicas, 0), rc.Status.Replicas, labels.Set(rc.Spec.Selector).String()
		},
		Set: func(rc *corev1.ReplicationController, replicas int32) { rc.Spec.Replicas = &replicas },
	},
	Columns: resource.Columns(slices.Concat(
		ReplicaColumns(corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc(), func(rc *corev1.ReplicationController) (int32, int32, int32) {
			return ptr.Deref(rc.Spec.Replicas, 0), rc.Status.Replicas, rc.Status.ReadyReplicas
		}),
		TemplateColumns(corev1.ReplicationControllerSpec{}.SwaggerDoc()["selector"],
			func(rc *corev1.ReplicationController) *corev1.PodSpec {
				template := ptr.Deref(rc.Spec.Template, corev1.PodTemplateSpec{})
				return &template.Spec
			},
			func(rc *corev1.ReplicationController) string { return labels.FormatLabels(rc.Spec.Selector) }),
	)...),
}

// ReplicaColumns are Desired, Current and Ready.
func ReplicaColumns[T resource.Object](spec, status map[string]string, get func(T) (desired, current, ready int32)) []resource.Column[T] {
	return []resource.Column[T]{
		{Name: "Desired", Type: "integer", Description: spec["replicas"], Get: func(obj T) any { desired, _, _ := get(obj); return int64(desired) }},
		{Name: "Current", Type: "integer", Description: status["replicas"], Get: func(obj T) any { _, current, _ := get(obj); return int64(current) }},
		{Name: "Ready", Type: "integer", Description: status["readyReplicas"], Get: func(obj T) any { _, _, ready := get(obj); return int64(ready) }},
	}
}

func defaultReplicationController(rc *corev1.ReplicationController) {
	if rc.Spec.Replicas == nil {
		rc.Spec.Replicas = ptr.To[int32](1)
	}
	if rc.Spec.Template == nil {
		return
	}
	if rc.Spec.Template.Labels != nil {
		if len(rc.Spec.Selector) == 0 {
			rc.Spec.Selector = rc.Spec.Template.Labels
		}
		if len(rc.Labels) == 0 {
			rc.Labels = rc.Spec.Template.Labels
		}
	}
	DefaultPodTemplateSpec(rc.Spec.Template)
}

func validateReplicationController(rc *corev1.ReplicationController) field.ErrorList {
	return validateReplicationControllerSpec(&rc.Spec, nil, field.NewPath("spec"))
}

func validateReplicationControllerUpdate(rc, old *corev1.ReplicationController) field.ErrorList {
	return validateReplicationControllerSpec(&rc.Spec, &old.Spec, field.NewPath("spec"))
}

func validateReplicationControllerSpec(spec, old *corev1.ReplicationControllerSpec, path *field.Path) field.ErrorList {
	errs := validate.Nonnegative(spec.MinReadySeconds, path.Child("minReadySeconds"))
	if len(spec.Selector) == 0 {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	}
	if spec.Replicas == nil {
		errs = append(errs, field.Required(path.Child("replicas"), ""))
	} else {
		errs = append(errs, validate.Nonnegative(*spec.Replicas, path.Child("replicas"))...)
	}
	if spec.Template == nil {
		return append(errs, field.Required(path.Child("template"), ""))
	}
	if !labels.SelectorFromSet(spec.Selector).Matches(labels.Set(spec.Template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	var oldTemplate *corev1.PodTemplateSpec
	if old != nil {
		oldTemplate = old.Template
	}
	return append(errs, ValidateReplicaTemplate(spec.Template, oldTemplate, path.Child("template"), "ReplicationController")...)
}

// ValidateReplicaTemplate checks the template of a controller that keeps pods running: they must restart, and never end.
func ValidateReplicaTemplate(template, old *corev1.PodTemplateSpec, path *field.Path, kind string) field.ErrorList {
	errs := ValidatePodTemplateSpecUpdate(template, old, path)
	if template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), template.Spec.RestartPolicy,
			[]corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
	return errs
}

func validateReplicationControllerStatus(rc, _ *corev1.ReplicationController) field.ErrorList {
	s := &rc.Status
	return ReplicaStatus{
		Replicas: s.Replicas, FullyLabeled: s.FullyLabeledReplicas, Ready: s.ReadyReplicas, Available: s.AvailableReplicas,
		ObservedGeneration: s.ObservedGeneration,
	}.Validate(field.NewPath("status"))
}

// ReplicaStatus is what the status of a ReplicationController and of a ReplicaSet have in common.
type ReplicaStatus struct {
	Replicas, FullyLabeled, Ready, Available int32
	ObservedGeneration                       int64
}

// Validate checks that the counts are possible.
func (s ReplicaStatus) Validate(path *field.Path) field.ErrorList {
	errs := validate.Nonnegative(s.Replicas, path.Child("replicas"))
	errs = append(errs, validate.Nonnegative(s.FullyLabeled, path.Child("fullyLabeledReplicas"))...)
	errs = append(errs, validate.Nonnegative(s.Ready, path.Child("readyReplicas"))...)
	errs = append(errs, validate.Nonnegative(s.Available, path.Child("availableReplicas"))...)
	errs = append(errs, apivalidation.ValidateNonnegativeField(s.ObservedGeneration, path.Child("observedGeneration"))...)
	const tooMany = "cannot be greater than status.replicas"
	if s.FullyLabeled > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("fullyLabeledReplicas"), s.FullyLabeled, tooMany))
	}
	if s.Ready > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("readyReplicas"), s.Ready, tooMany))
	}
	if s.Available > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.Available, tooMany))
	}
	if s.Available > s.Ready {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.Available, "cannot be greater than readyReplicas"))
	}
	return errs
}

func warnReplicationController(rc, old *corev1.ReplicationController) []string {
	path := field.NewPath("spec", "template")
	switch {
	case old == nil:
		return append(DNSLabelNameWarnings(rc.Name, true), PodTemplateWarnings(rc.Spec.Template, nil, path)...)
	case rc.Generation == old.Generation:
		return nil
	}
	return PodTemplateWarnings(old.Spec.Template, rc.Spec.Template, path) // of what is replaced, as clients have always been told
}

// DNSLabelNameWarnings tells the creator of an object with pods that its name will make odd host names.
func DNSLabelNameWarnings(name string, create bool) []string {
	messages := apivalidation.NameIsDNSLabel(name, false)
	if !create || len(messages) == 0 {
		return nil
	}
	return []string{"metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; " +
		"a DNS label is recommended: " + fmt.Sprint(messages)}
}
