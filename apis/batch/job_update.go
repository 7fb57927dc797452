package batch

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/validate"
)

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateJobSpec(&j.Spec, &old.Spec.Template, path)
	errs = append(errs, validateCompletionsUpdate(&j.Spec, &old.Spec, path.Child("completions"))...)
	errs = append(errs, validate.Immutable(j.Spec.Selector, old.Spec.Selector, path.Child("selector"))...)
	errs = append(errs, validateTemplateUpdate(j, old, path)...)
	errs = append(errs, validate.Immutable(j.Spec.CompletionMode, old.Spec.CompletionMode, path.Child("completionMode"))...)
	errs = append(errs, validate.Immutable(j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy, path.Child("podFailurePolicy"))...)
	errs = append(errs, validate.Immutable(j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	errs = append(errs, validate.Immutable(j.Spec.ManagedBy, old.Spec.ManagedBy, path.Child("managedBy"))...)
	return append(errs, validate.Immutable(j.Spec.SuccessPolicy, old.Spec.SuccessPolicy, path.Child("successPolicy"))...)
}

// validateCompletionsUpdate lets an indexed job grow or shrink as long as all of its indexes run at once.
func validateCompletionsUpdate(spec, old *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if !isIndexed(spec) {
		return validate.Immutable(spec.Completions, old.Completions, path)
	}
	if spec.Completions != nil && !ptr.Equal(spec.Completions, old.Completions) && *spec.Completions != ptr.Deref(spec.Parallelism, 0) {
		return field.ErrorList{field.Invalid(path, *spec.Completions, "can only be modified in tandem with spec.parallelism")}
	}
	return nil
}

// validateTemplateUpdate keeps the template, but for where its pods go and what they ask for while a suspended job has none.
func validateTemplateUpdate(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	template := &j.Spec.Template
	if !ptr.Deref(old.Spec.Suspend, false) || !hasNoPods(old) {
		return validate.Immutable(template, &old.Spec.Template, path.Child("template"))
	}
	was := old.Spec.Template.DeepCopy()
	switch {
	case template.Spec.Affinity != nil && was.Spec.Affinity != nil:
		was.Spec.Affinity.NodeAffinity = template.Spec.Affinity.NodeAffinity
	case template.Spec.Affinity != nil:
		was.Spec.Affinity = &corev1.Affinity{NodeAffinity: template.Spec.Affinity.NodeAffinity}
	case was.Spec.Affinity != nil:
		was.Spec.Affinity.NodeAffinity = nil
		if *was.Spec.Affinity == (corev1.Affinity{}) {
			was.Spec.Affinity = nil
		}
	}
	was.Spec.NodeSelector = template.Spec.NodeSelector
	was.Spec.Tolerations = template.Spec.Tolerations
	was.Spec.SchedulingGates = template.Spec.SchedulingGates
	copyRequirements(was.Spec.Containers, template.Spec.Containers)
	copyRequirements(was.Spec.InitContainers, template.Spec.InitContainers)
	return validate.Immutable(template.Spec, was.Spec, path.Child("template.spec"))
}

func hasNoPods(old *batchv1.Job) bool {
	if !ptr.Deref(old.Spec.Suspend, false) {
		return false
	}
	return old.Status.StartTime == nil || hasCondition(old, batchv1.JobSuspended) && old.Status.Active == 0
}

func copyRequirements(to, from []corev1.Container) {
	for i := range to {
		if len(to) == len(from) && to[i].Name == from[i].Name {
			to[i].Resources = from[i].Resources
		}
	}
}
