package batch

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/validate"
)

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateJobSpec(&j.Spec, &old.Spec.Template, path)
	errs = append(errs, validateCompletionsUpdate(&j.Spec, &old.Spec, path.Child("completions"))...)
	errs = append(errs, validate.Immutable(j.Spec.Selector, old.Spec.Selector, path.Child("selector"))...)
	errs = append(errs, validateTemplateUpdate(j, old, path.Child("template"))...)
	errs = append(errs, validate.Immutable(j.Spec.CompletionMode, old.Spec.CompletionMode, path.Child("completionMode"))...)
	errs = append(errs, validate.Immutable(j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy, path.Child("podFailurePolicy"))...)
	errs = append(errs, validate.Immutable(j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	errs = append(errs, validate.Immutable(j.Spec.ManagedBy, old.Spec.ManagedBy, path.Child("managedBy"))...)
	return append(errs, validate.Immutable(j.Spec.SuccessPolicy, old.Spec.SuccessPolicy, path.Child("successPolicy"))...)
}

// validateCompletionsUpdate lets an indexed job grow or shrink as long as all of its indexes run at once.
func validateCompletionsUpdate(spec, old *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if !isIndexed(spec) || spec.Completions == nil || old.Completions == nil || *spec.Completions == *old.Completions {
		return validate.Immutable(spec.Completions, old.Completions, path)
	}
	if *spec.Completions != ptr.Deref(spec.Parallelism, 0) || *old.Completions != ptr.Deref(old.Parallelism, 0) {
		return field.ErrorList{field.Invalid(path, *spec.Completions, "can only be modified in tandem with spec.parallelism")}
	}
	return nil
}

// validateTemplateUpdate keeps the template, but for where its pods go and what they ask for while a suspended job has none.
func validateTemplateUpdate(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	template := &j.Spec.Template
	if !hasNoPods(old) {
		return validate.Immutable(template, &old.Spec.Template, path)
	}
	was := old.Spec.Template.DeepCopy()
	switch {
	case template.Spec.Affinity != nil && was.Spec.Affinity != nil:
		was.Spec.Affinity.NodeAffinity = template.Spec.Affinity.NodeAffinity
	case template.Spec.Affinity != nil && template.Spec.Affinity.NodeAffinity != nil:
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
	was.Annotations = template.Annotations
	was.Labels = template.Labels
	copyRequirements(was.Spec.Containers, template.Spec.Containers)
	copyRequirements(was.Spec.InitContainers, template.Spec.InitContainers)
	return validate.Immutable(template, was, path)
}

func hasNoPods(old *batchv1.Job) bool {
	if !ptr.Deref(old.Spec.Suspend, false) {
		return false
	}
	return old.Status.StartTime == nil || hasCondition(old, batchv1.JobSuspended) && old.Status.Active == 0
}

func copyRequirements(to, from []corev1.Container) {
	for i := range min(len(to), len(from)) {
		to[i].Resources = from[i].Resources
	}
}

func isFinished(j *batchv1.Job) bool {
	return hasCondition(j, batchv1.JobComplete) || hasCondition(j, batchv1.JobFailed)
}

// validateJobStatus checks what a job controller, ours or a foreign one, reports. Rules that compare fields are applied only where
// one of them changed.
func validateJobStatus(j, old *batchv1.Job) field.ErrorList {
	s, path := &j.Status, field.NewPath("status")
	errs := validate.Nonnegative(s.Active, path.Child("active"))
	errs = append(errs, validate.Nonnegative(s.Succeeded, path.Child("succeeded"))...)
	errs = append(errs, validate.Nonnegative(s.Failed, path.Child("failed"))...)
	errs = append(errs, validate.NonnegativePtr(s.Ready, path.Child("ready"))...)
	errs = append(errs, validate.NonnegativePtr(s.Terminating, path.Child("terminating"))...)
	errs = append(errs, validateUncounted(s.UncountedTerminatedPods, path.Child("uncountedTerminatedPods"))...)
	errs = append(errs, validateIndexes(j, old, path)...)
	if validate.Equal(j.Status, old.Status) {
		return errs
	}
	if s.Ready != nil && *s.Ready > s.Active {
		errs = append(errs, field.Invalid(path.Child("ready"), *s.Ready, "cannot set more ready pods than active"))
	}
	if isFinished(j) {
		errs = append(errs, validateFinished(j, path)...)
	}
	if s.CompletionTime != nil && !hasCondition(j, batchv1.JobComplete) {
		errs = append(errs, field.Invalid(path.Child("completionTime"), s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	}
	return append(errs, validateConditions(j, old, path.Child("conditions"))...)
}

func validateFinished(j *batchv1.Job, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	s := &j.Status
	if s.StartTime == nil {
		errs = append(errs, field.Required(path.Child("startTime"), "startTime is required for finished job"))
	}
	if hasCondition(j, batchv1.JobComplete) && s.CompletionTime == nil {
		errs = append(errs, field.Required(path.Child("completionTime"), "completionTime is required for Complete jobs"))
	}
	if s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		errs = append(errs, field.Invalid(path.Child("completionTime"), s.CompletionTime, "completionTime cannot be set before startTime"))
	}
	if s.Active > 0 {
		errs = append(errs, field.Invalid(path.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if ptr.Deref(s.Terminating, 0) > 0 {
		errs = append(errs, field.Invalid(path.Child("terminating"), *s.Terminating, "terminating>0 is invalid for finished job"))
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Failed)+len(u.Succeeded) > 0 {
		errs = append(errs, field.Invalid(path.Child("uncountedTerminatedPods"), u, "uncountedTerminatedPods needs to be empty for finished job"))
	}
	return errs
}

// validateConditions: a job ends once, one way.
func validateConditions(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	exclusive := func(a, b batchv1.JobConditionType) {
		if hasCondition(j, a) && hasCondition(j, b) {
			errs = append(errs, field.Invalid(path, field.OmitValueType{}, "cannot set "+string(a)+"=True and "+string(b)+"=true conditions"))
		}
	}
	exclusive(batchv1.JobComplete, batchv1.JobFailed)
	exclusive(batchv1.JobComplete, batchv1.JobFailureTarget)
	exclusive(batchv1.JobFailed, batchv1.JobSuccessCriteriaMet)
	exclusive(batchv1.JobSuccessCriteriaMet, batchv1.JobFailureTarget)
	for _, final := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if hasCondition(old, final) && !hasCondition(j, final) {
			errs = append(errs, field.Invalid(path, field.OmitValueType{}, "cannot disable "+string(final)+"=True condition"))
		}
	}
	if hasCondition(j, batchv1.JobComplete) && !hasCondition(j, batchv1.JobSuccessCriteriaMet) {
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"))
	}
	if hasCondition(j, batchv1.JobFailed) && !hasCondition(j, batchv1.JobFailureTarget) {
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "cannot set Failed=True condition without the FailureTarget=true condition"))
	}
	return errs
}

func validateUncounted(u *batchv1.UncountedTerminatedPods, path *field.Path) field.ErrorList {
	if u == nil {
		return nil
	}
	var errs field.ErrorList
	seen := sets.New[types.UID]()
	check := func(uids []types.UID, at *field.Path) {
		for i, uid := range uids {
			switch {
			case uid == "":
				errs = append(errs, field.Invalid(at.Index(i), uid, "must not be empty"))
			case seen.Has(uid):
				errs = append(errs, field.Duplicate(at.Index(i), uid))
			}
			seen.Insert(uid)
		}
	}
	check(u.Succeeded, path.Child("succeeded"))
	check(u.Failed, path.Child("failed"))
	return errs
}

// validateIndexes checks the lists of an indexed job, where they changed: the two must not meet.
func validateIndexes(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	s := &j.Status
	completed, failed := path.Child("completedIndexes"), path.Child("failedIndexes")
	if s.CompletedIndexes == old.Status.CompletedIndexes && ptr.Equal(s.FailedIndexes, old.Status.FailedIndexes) {
		return nil
	}
	var errs field.ErrorList
	if !isIndexed(&j.Spec) {
		if s.CompletedIndexes != "" {
			errs = append(errs, field.Invalid(completed, s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode"))
		}
		if s.FailedIndexes != nil {
			errs = append(errs, field.Invalid(failed, *s.FailedIndexes, "cannot set non-empty failedIndexes when non-indexed completion mode"))
		}
		return errs
	}
	limit := ptr.Deref(j.Spec.Completions, 0)
	if _, err := countIndexes(s.CompletedIndexes, limit); err != nil {
		errs = append(errs, field.Invalid(completed, s.CompletedIndexes, "error parsing completedIndexes: "+err.Error()))
	}
	if s.FailedIndexes == nil {
		return errs
	}
	if j.Spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(failed, *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"))
	}
	if _, err := countIndexes(*s.FailedIndexes, limit); err != nil {
		return append(errs, field.Invalid(failed, *s.FailedIndexes, "error parsing failedIndexes: "+err.Error()))
	}
	if slices.ContainsFunc(indexRanges(*s.FailedIndexes), func(f indexRange) bool {
		return slices.ContainsFunc(indexRanges(s.CompletedIndexes), f.overlaps)
	}) {
		errs = append(errs, field.Invalid(failed, *s.FailedIndexes, "failedIndexes and completedIndexes overlap"))
	}
	return errs
}
