package batch

import (
	"fmt"
	"math"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/core"
	"keelson.dev/apis/validate"
)

// Bounds on what fits into a job's status.
const (
	maxIndexedParallelism     = 100_000 // also of maxFailedIndexes
	maxIndexedWarning         = 100_000
	maxManyIndexesParallelism = 10_000
	maxManyIndexesFailed      = 10_000
	manyIndexes               = 100_000
	maxPolicyRules            = 20
	maxExitCodes              = 255
	maxPodConditions          = 20
	maxIndexesBytes           = 64 * 1024
	maxManagedByLength        = 63
)

func validateJob(j *batchv1.Job) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateGeneratedSelector(j)
	errs = append(errs, validateJobSpec(&j.Spec, nil, path)...)
	if isIndexed(&j.Spec) && ptr.Deref(j.Spec.Completions, 0) > 0 {
		// The pod's host name ends in its index.
		last := fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1)
		if messages := validation.IsDNS1123Label(last); len(messages) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), j.Name,
				fmt.Sprintf("will not able to create pod with invalid DNS label: %s", last)))
		}
	}
	return errs
}

func isIndexed(spec *batchv1.JobSpec) bool {
	return ptr.Deref(spec.CompletionMode, "") == batchv1.IndexedCompletion
}

// validateGeneratedSelector makes sure that nobody has written into what is generated.
func validateGeneratedSelector(j *batchv1.Job) field.ErrorList {
	if ptr.Deref(j.Spec.ManualSelector, false) || j.Spec.Selector == nil {
		return nil
	}
	if j.UID == "" {
		return field.ErrorList{field.Required(field.NewPath("metadata", "uid"), "")}
	}
	var errs field.ErrorList
	path := field.NewPath("spec", "template", "metadata", "labels")
	expected := jobLabels(j)
	for _, key := range []string{batchv1.ControllerUidLabel, legacyControllerUIDLabel, batchv1.JobNameLabel, legacyJobNameLabel} {
		value, ok := j.Spec.Template.Labels[key]
		switch {
		case !ok:
			errs = append(errs, field.Required(path.Key(key), fmt.Sprintf("must be '%s'", expected[key])))
		case value != expected[key]:
			errs = append(errs, field.Invalid(path.Key(key), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", expected[key])))
		}
	}
	if selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !selector.Matches(labels.Set(expected)) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// validateJobSpec checks the spec of a job; old is the template it replaces, nil on create.
func validateJobSpec(spec *batchv1.JobSpec, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := validateJobTemplatePart(spec, old, path)
	if spec.Selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	}
	errs = append(errs, validate.LabelSelector(spec.Selector, path.Child("selector"))...)
	if selector, err := metav1.LabelSelectorAsSelector(spec.Selector); err == nil && !selector.Matches(labels.Set(spec.Template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	return errs
}

// validateJobTemplatePart checks everything but the selector, which a CronJob's template does not have.
func validateJobTemplatePart(spec *batchv1.JobSpec, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := validate.NonnegativePtr(spec.Parallelism, path.Child("parallelism"))
	errs = append(errs, validate.NonnegativePtr(spec.Completions, path.Child("completions"))...)
	errs = append(errs, validate.NonnegativePtr(spec.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds"))...)
	errs = append(errs, validate.NonnegativePtr(spec.BackoffLimit, path.Child("backoffLimit"))...)
	errs = append(errs, validate.NonnegativePtr(spec.TTLSecondsAfterFinished, path.Child("ttlSecondsAfterFinished"))...)
	errs = append(errs, validate.NonnegativePtr(spec.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	errs = append(errs, validateFailedIndexes(spec, path)...)
	errs = append(errs, validateManagedBy(spec.ManagedBy, path.Child("managedBy"))...)
	errs = append(errs, validateCompletionMode(spec, path)...)
	errs = append(errs, validatePodFailurePolicy(spec, path.Child("podFailurePolicy"))...)
	errs = append(errs, validateSuccessPolicy(spec, path.Child("successPolicy"))...)
	errs = append(errs, validateReplacementPolicy(spec, path.Child("podReplacementPolicy"))...)
	errs = append(errs, core.ValidatePodTemplateSpecUpdate(&spec.Template, old, path.Child("template"))...)

	restart := path.Child("template", "spec", "restartPolicy")
	switch policy := spec.Template.Spec.RestartPolicy; {
	case policy == corev1.RestartPolicyAlways || policy == "":
		errs = append(errs, field.Required(restart, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)))
	case policy == corev1.RestartPolicyOnFailure && spec.PodFailurePolicy != nil:
		errs = append(errs, field.Invalid(restart, policy, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever)))
	default:
		errs = append(errs, validate.OneOf(policy, restart, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	}
	return errs
}

func validateManagedBy(managedBy *string, path *field.Path) field.ErrorList {
	if managedBy == nil {
		return nil
	}
	errs := validation.IsDomainPrefixedPath(path, *managedBy)
	if len(*managedBy) > maxManagedByLength {
		errs = append(errs, field.TooLong(path, *managedBy, maxManagedByLength))
	}
	return errs
}

func validateFailedIndexes(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	limit := spec.MaxFailedIndexes
	if limit == nil {
		return nil
	}
	at := path.Child("maxFailedIndexes")
	errs := validate.NonnegativePtr(limit, at)
	if spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if !isIndexed(spec) {
		return errs
	}
	if spec.Completions != nil && *limit > *spec.Completions {
		errs = append(errs, field.Invalid(at, *limit, "must be less than or equal to completions"))
	}
	if *limit > maxIndexedParallelism {
		errs = append(errs, field.Invalid(at, *limit, fmt.Sprintf("must be less than or equal to %d", maxIndexedParallelism)))
	}
	return errs
}

func validateCompletionMode(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if mode := ptr.Deref(spec.CompletionMode, batchv1.NonIndexedCompletion); mode != batchv1.IndexedCompletion {
		errs := validate.OneOf(mode, path.Child("completionMode"), batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
		if len(errs) > 0 {
			return errs
		}
		if spec.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(path.Child("backoffLimitPerIndex"), *spec.BackoffLimitPerIndex, "requires indexed completion mode"))
		}
		if spec.MaxFailedIndexes != nil {
			errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *spec.MaxFailedIndexes, "requires indexed completion mode"))
		}
		return errs
	}
	var errs field.ErrorList
	if spec.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
	}
	if parallelism := ptr.Deref(spec.Parallelism, 0); parallelism > maxIndexedParallelism {
		errs = append(errs, field.Invalid(path.Child("parallelism"), parallelism,
			fmt.Sprintf("must be less than or equal to %d when completion mode is %s", maxIndexedParallelism, batchv1.IndexedCompletion)))
	}
	if spec.BackoffLimitPerIndex == nil || ptr.Deref(spec.Completions, 0) <= manyIndexes {
		return errs
	}
	const message = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
	switch limit := spec.MaxFailedIndexes; {
	case limit == nil:
		errs = append(errs, field.Required(path.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", manyIndexes)))
	case *limit > maxManyIndexesFailed:
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *limit, fmt.Sprintf(message, maxManyIndexesFailed, manyIndexes)))
	}
	if parallelism := ptr.Deref(spec.Parallelism, 0); parallelism > maxManyIndexesParallelism {
		errs = append(errs, field.Invalid(path.Child("parallelism"), parallelism, fmt.Sprintf(message, maxManyIndexesParallelism, manyIndexes)))
	}
	return errs
}

func validateReplacementPolicy(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if spec.PodReplacementPolicy == nil {
		return nil
	}
	if spec.PodFailurePolicy != nil {
		return validate.OneOf(*spec.PodReplacementPolicy, path, batchv1.Failed)
	}
	return validate.OneOf(*spec.PodReplacementPolicy, path, batchv1.Failed, batchv1.TerminatingOrFailed)
}

func validatePodFailurePolicy(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if spec.PodFailurePolicy == nil {
		return nil
	}
	var errs field.ErrorList
	rules := path.Child("rules")
	if len(spec.PodFailurePolicy.Rules) > maxPolicyRules {
		errs = append(errs, field.TooMany(rules, len(spec.PodFailurePolicy.Rules), maxPolicyRules))
	}
	names := sets.New[string]()
	for _, c := range slices.Concat(spec.Template.Spec.InitContainers, spec.Template.Spec.Containers) {
		names.Insert(c.Name)
	}
	for i := range spec.PodFailurePolicy.Rules {
		errs = append(errs, validateFailureRule(spec, &spec.PodFailurePolicy.Rules[i], names, rules.Index(i))...)
	}
	return errs
}

func validateFailureRule(spec *batchv1.JobSpec, rule *batchv1.PodFailurePolicyRule, names sets.Set[string], path *field.Path) field.ErrorList {
	actions := []batchv1.PodFailurePolicyAction{
		batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore,
	}
	errs := requiredOneOf(rule.Action, path.Child("action"), actions...)
	if rule.Action == batchv1.PodFailurePolicyActionFailIndex && spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(path.Child("action"), rule.Action, "requires the backoffLimitPerIndex to be set"))
	}
	if rule.OnExitCodes != nil {
		errs = append(errs, validateExitCodes(rule.OnExitCodes, names, path.Child("onExitCodes"))...)
	}
	conditions := path.Child("onPodConditions")
	if len(rule.OnPodConditions) > maxPodConditions {
		errs = append(errs, field.TooMany(conditions, len(rule.OnPodConditions), maxPodConditions))
	}
	for i, condition := range rule.OnPodConditions {
		errs = append(errs, validate.QualifiedName(string(condition.Type), conditions.Index(i).Child("type"))...)
		errs = append(errs, requiredOneOf(condition.Status, conditions.Index(i).Child("status"),
			corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
	}
	switch {
	case rule.OnExitCodes != nil && len(rule.OnPodConditions) > 0:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case rule.OnExitCodes == nil && len(rule.OnPodConditions) == 0:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

// requiredOneOf is for fields whose error, when they are absent, lists the choice.
func requiredOneOf[S ~string](value S, path *field.Path, supported ...S) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q", supported))}
	}
	return validate.OneOf(value, path, supported...)
}

func validateExitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, names sets.Set[string], path *field.Path) field.ErrorList {
	errs := requiredOneOf(r.Operator, path.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if r.ContainerName != nil && !names.Has(*r.ContainerName) {
		errs = append(errs, field.Invalid(path.Child("containerName"), *r.ContainerName,
			"must be one of the container or initContainer names in the pod template"))
	}
	values := path.Child("values")
	switch {
	case len(r.Values) == 0:
		errs = append(errs, field.Invalid(values, r.Values, "at least one value is required"))
	case len(r.Values) > maxExitCodes:
		errs = append(errs, field.TooMany(values, len(r.Values), maxExitCodes))
	}
	seen := sets.New[int32]()
	for i, value := range r.Values {
		if value == 0 && r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn {
			errs = append(errs, field.Invalid(values.Index(i), value, "must not be 0 for the In operator"))
		}
		if seen.Has(value) {
			errs = append(errs, field.Duplicate(values.Index(i), value))
		}
		seen.Insert(value)
	}
	if !slices.IsSorted(r.Values) {
		errs = append(errs, field.Invalid(values, r.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if spec.SuccessPolicy == nil {
		return nil
	}
	if !isIndexed(spec) {
		return field.ErrorList{field.Invalid(path, *spec.SuccessPolicy, "requires indexed completion mode")}
	}
	var errs field.ErrorList
	rules := path.Child("rules")
	if len(spec.SuccessPolicy.Rules) == 0 {
		errs = append(errs, field.Required(rules, "at least one rules must be specified when the successPolicy is specified"))
	}
	if len(spec.SuccessPolicy.Rules) > maxPolicyRules {
		errs = append(errs, field.TooMany(rules, len(spec.SuccessPolicy.Rules), maxPolicyRules))
	}
	for i := range spec.SuccessPolicy.Rules {
		errs = append(errs, validateSuccessRule(spec, &spec.SuccessPolicy.Rules[i], rules.Index(i))...)
	}
	return errs
}

func validateSuccessRule(spec *batchv1.JobSpec, rule *batchv1.SuccessPolicyRule, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	indexes, count := path.Child("succeededIndexes"), path.Child("succeededCount")
	if rule.SucceededIndexes == nil && rule.SucceededCount == nil {
		errs = append(errs, field.Required(path, "at least one of succeededCount or succeededIndexes must be specified"))
	}
	total := int64(math.MaxInt32)
	if rule.SucceededIndexes != nil {
		if len(*rule.SucceededIndexes) > maxIndexesBytes {
			errs = append(errs, field.TooLong(indexes, *rule.SucceededIndexes, maxIndexesBytes))
		}
		n, err := countIndexes(*rule.SucceededIndexes, ptr.Deref(spec.Completions, 0))
		if err != nil {
			errs = append(errs, field.Invalid(indexes, *rule.SucceededIndexes, fmt.Sprintf("error parsing succeededIndexes: %s", err)))
		}
		total = n
	}
	if rule.SucceededCount == nil {
		return errs
	}
	errs = append(errs, validate.NonnegativePtr(rule.SucceededCount, count)...)
	if completions := ptr.Deref(spec.Completions, 0); *rule.SucceededCount > completions {
		errs = append(errs, field.Invalid(count, *rule.SucceededCount,
			fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
	}
	if rule.SucceededIndexes != nil && int64(*rule.SucceededCount) > total {
		errs = append(errs, field.Invalid(count, *rule.SucceededCount,
			fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
	}
	return errs
}
