package batch

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/validate"
)

func isFinished(j *batchv1.Job) bool {
	return hasCondition(j, batchv1.JobComplete) || hasCondition(j, batchv1.JobFailed)
}

// validateJobStatus checks what a job controller, ours or a foreign one, reports. Rules that compare fields are applied only where
// one of them changed: a spec that was changed a moment ago may not fit the status that is still there.
func validateJobStatus(j, old *batchv1.Job) field.ErrorList {
	s, path := &j.Status, field.NewPath("status")
	errs := validate.Nonnegative(s.Active, path.Child("active"))
	errs = append(errs, validate.Nonnegative(s.Succeeded, path.Child("succeeded"))...)
	errs = append(errs, validate.Nonnegative(s.Failed, path.Child("failed"))...)
	errs = append(errs, validate.NonnegativePtr(s.Ready, path.Child("ready"))...)
	errs = append(errs, validate.NonnegativePtr(s.Terminating, path.Child("terminating"))...)
	errs = append(errs, validateUncounted(s.UncountedTerminatedPods, path.Child("uncountedTerminatedPods"))...)
	errs = append(errs, validateIndexes(j, old, path)...)
	readyChanged := !ptr.Equal(s.Ready, old.Status.Ready) || s.Active != old.Status.Active
	if readyChanged && s.Ready != nil && *s.Ready > s.Active {
		errs = append(errs, field.Invalid(path.Child("ready"), *s.Ready, "cannot set more ready pods than active"))
	}
	errs = append(errs, validateFinished(j, old, path)...)
	errs = append(errs, validateJobTimes(j, old, path)...)
	errs = append(errs, validateCounters(j, old, path)...)
	return append(errs, validateConditions(j, old, path.Child("conditions"))...)
}

// validateFinished: a job that has ended has no pods left.
func validateFinished(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	if !isFinished(j) {
		return nil
	}
	var errs field.ErrorList
	s, was, finishing := &j.Status, &old.Status, !isFinished(old)
	if s.Active > 0 && (finishing || s.Active != was.Active) {
		errs = append(errs, field.Invalid(path.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	neverStarted := ptr.Deref(j.Spec.Suspend, false) && j.Spec.Completions != nil && *j.Spec.Completions == 0
	if s.StartTime == nil && (finishing || was.StartTime != nil) && !neverStarted {
		errs = append(errs, field.Required(path.Child("startTime"), "startTime is required for finished job"))
	}
	if ptr.Deref(s.Terminating, 0) > 0 && (finishing || !ptr.Equal(s.Terminating, was.Terminating)) {
		errs = append(errs, field.Invalid(path.Child("terminating"), *s.Terminating, "terminating>0 is invalid for finished job"))
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Failed)+len(u.Succeeded) > 0 && (finishing || !validate.Equal(u, was.UncountedTerminatedPods)) {
		errs = append(errs, field.Invalid(path.Child("uncountedTerminatedPods"), u, "must be empty for finished job"))
	}
	return errs
}

func validateJobTimes(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	s, was := &j.Status, &old.Status
	start, completion := path.Child("startTime"), path.Child("completionTime")
	complete, startChanged, completionChanged := hasCondition(j, batchv1.JobComplete), !ptr.Equal(s.StartTime, was.StartTime), !ptr.Equal(s.CompletionTime, was.CompletionTime)
	if complete != hasCondition(old, batchv1.JobComplete) || completionChanged {
		if s.CompletionTime != nil && !complete {
			errs = append(errs, field.Invalid(completion, s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
		}
		if s.CompletionTime == nil && complete {
			errs = append(errs, field.Required(completion, "completionTime is required for Complete jobs"))
		}
	}
	if (startChanged || completionChanged) && s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		errs = append(errs, field.Invalid(completion, s.CompletionTime, "must be equal to or after `startTime`"))
	}
	if s.CompletionTime != nil && was.CompletionTime != nil && completionChanged {
		errs = append(errs, field.Invalid(completion, s.CompletionTime, validate.ImmutableMessage))
	}
	if was.StartTime != nil && startChanged && !ptr.Deref(j.Spec.Suspend, false) && !isResuming(j, old) {
		errs = append(errs, field.Invalid(start, s.StartTime, "field is immutable for unsuspended job once set"))
	}
	return errs
}

// isResuming tells whether the status says for the first time that the job goes on: it starts anew then.
func isResuming(j, old *batchv1.Job) bool {
	return hasCondition(old, batchv1.JobSuspended) && slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionFalse
	})
}

// validateCounters: what has been counted stays counted, but that an indexed job may shrink.
func validateCounters(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if j.Status.Failed < old.Status.Failed {
		errs = append(errs, field.Invalid(path.Child("failed"), j.Status.Failed, "cannot decrease the failed counter"))
	}
	mayShrink := isIndexed(&j.Spec) && ptr.Equal(j.Spec.Completions, j.Spec.Parallelism)
	if j.Status.Succeeded < old.Status.Succeeded && !mayShrink {
		errs = append(errs, field.Invalid(path.Child("succeeded"), j.Status.Succeeded, "cannot decrease the succeeded counter"))
	}
	return errs
}

// validateConditions: a job ends once, one way, and says first how.
func validateConditions(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	refuse := func(message string) { errs = append(errs, field.Invalid(path, field.OmitValueType{}, message)) }
	changed := func(kinds ...batchv1.JobConditionType) bool {
		return slices.ContainsFunc(kinds, func(kind batchv1.JobConditionType) bool { return hasCondition(j, kind) != hasCondition(old, kind) })
	}
	complete, failed := hasCondition(j, batchv1.JobComplete), hasCondition(j, batchv1.JobFailed)
	target, met := hasCondition(j, batchv1.JobFailureTarget), hasCondition(j, batchv1.JobSuccessCriteriaMet)
	for _, rule := range []struct {
		broken  bool
		message string
	}{
		{complete && failed && changed(batchv1.JobComplete, batchv1.JobFailed), "cannot set Complete=True and Failed=true conditions"},
		{complete && target && changed(batchv1.JobComplete, batchv1.JobFailureTarget), "cannot set Complete=True and FailureTarget=true conditions"},
		{
			failed && !target && (changed(batchv1.JobFailed) || !ptr.Equal(j.Status.FailedIndexes, old.Status.FailedIndexes)),
			"cannot set Failed=True condition without the FailureTarget=true condition",
		},
		{
			complete && !met && changed(batchv1.JobComplete, batchv1.JobSuccessCriteriaMet),
			"cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
		},
		{met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"},
		{met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"},
		{j.Spec.SuccessPolicy != nil && !met && complete, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True"},
	} {
		if rule.broken {
			refuse(rule.message)
		}
	}
	for _, final := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		if hasCondition(old, final) && !hasCondition(j, final) {
			refuse("cannot disable the terminal " + string(final) + "=True condition")
		}
	}
	metBefore := hasCondition(old, batchv1.JobSuccessCriteriaMet)
	if metBefore && !met {
		refuse("cannot disable the SuccessCriteriaMet=True condition")
	}
	if hasCondition(old, batchv1.JobComplete) && !metBefore && met {
		refuse("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
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
	var errs field.ErrorList
	s, completed, failed := &j.Status, path.Child("completedIndexes"), path.Child("failedIndexes")
	completedChanged, failedChanged := s.CompletedIndexes != old.Status.CompletedIndexes, !ptr.Equal(s.FailedIndexes, old.Status.FailedIndexes)
	limit := j.Spec.Completions
	if completedChanged && limit != nil {
		if _, err := countIndexes(s.CompletedIndexes, *limit); err != nil {
			errs = append(errs, field.Invalid(completed, s.CompletedIndexes, "error parsing completedIndexes: "+err.Error()))
		}
	}
	if completedChanged && s.CompletedIndexes != "" && !isIndexed(&j.Spec) {
		errs = append(errs, field.Invalid(completed, s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode"))
	}
	if s.FailedIndexes == nil {
		return errs
	}
	if failedChanged && limit != nil && j.Spec.BackoffLimitPerIndex != nil {
		if _, err := countIndexes(*s.FailedIndexes, *limit); err != nil {
			errs = append(errs, field.Invalid(failed, *s.FailedIndexes, "error parsing failedIndexes: "+err.Error()))
		}
	}
	if failedChanged && j.Spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(failed, *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"))
	}
	if limit == nil || !failedChanged && !completedChanged {
		return errs
	}
	for _, f := range indexRanges(*s.FailedIndexes) {
		for _, c := range indexRanges(s.CompletedIndexes) {
			if f.overlaps(c) {
				return append(errs, field.Invalid(failed, *s.FailedIndexes,
					fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", max(f.first, c.first))))
			}
		}
	}
	return errs
}
