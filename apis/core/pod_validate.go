package core

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
)

const (
	mirrorPodAnnotation    = corev1.MirrorPodAnnotationKey
	podDeletionCost        = corev1.PodDeletionCost
	appArmorAnnotationBase = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
)

var specPath = field.NewPath("spec")

// ValidatePod checks a new pod.
func ValidatePod(p *corev1.Pod) field.ErrorList {
	errs := validatePodMetadataAndSpec(p)
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if len(p.Spec.SchedulingGates) > 0 && p.Spec.NodeName != "" {
		errs = append(errs, field.Forbidden(specPath.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	errs = append(errs, validateSeccompAnnotations(p.Annotations, &p.Spec, specPath)...)
	return append(errs, validateAppArmorAnnotations(p.Annotations, &p.Spec, specPath)...)
}

func validatePodMetadataAndSpec(p *corev1.Pod) field.ErrorList {
	errs := validatePodAnnotations(p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))
	return append(errs, validatePodSpec(newPodContext(&p.Spec, p), specPath)...)
}

// updatableFields are what an update of a running pod may change, as the error names them.
var updatableFields = strings.Join([]string{
	"`spec.containers[*].image`", "`spec.initContainers[*].image`", "`spec.activeDeadlineSeconds`",
	"`spec.tolerations` (only additions to existing tolerations)",
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
}, ",")

// ValidatePodUpdate checks an update of the main resource: a pod is what it was created as, but for a few fields.
func ValidatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	errs := append(validatePodAnnotationsUpdate(p, old), validatePodSpec(newPodContext(&p.Spec, p), specPath)...)
	if len(p.Spec.Containers) != len(old.Spec.Containers) { // the difference that follows would only say the same at length
		return append(errs, field.Forbidden(specPath.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(specPath.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	errs = append(errs, validateDeadlineUpdate(p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds)...)
	errs = append(errs, validateGatesUpdate(p.Spec.SchedulingGates, old.Spec.SchedulingGates)...)
	errs = append(errs, validateTolerationsUpdate(p.Spec.Tolerations, old.Spec.Tolerations)...)

	masked := p.Spec.DeepCopy()
	for i := range masked.Containers {
		masked.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range masked.InitContainers {
		masked.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	masked.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	masked.SchedulingGates = old.Spec.SchedulingGates
	masked.Tolerations = old.Spec.Tolerations
	if grace := old.Spec.TerminationGracePeriodSeconds; grace != nil && *grace < 0 &&
		masked.TerminationGracePeriodSeconds != nil && *masked.TerminationGracePeriodSeconds == 1 {
		masked.TerminationGracePeriodSeconds = grace
	}
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, validateGatedUpdate(masked, &old.Spec)...)
	}
	if !validate.Equal(*masked, old.Spec) {
		errs = append(errs, field.Forbidden(specPath, fmt.Sprintf("pod updates may not change fields other than %s\n%v",
			updatableFields, diff.Diff(old.Spec, *masked))))
	}
	return errs
}

func validateDeadlineUpdate(deadline, old *int64) field.ErrorList {
	path := specPath.Child("activeDeadlineSeconds")
	switch {
	case deadline != nil && (*deadline < 0 || *deadline > math.MaxInt32):
		return field.ErrorList{field.Invalid(path, *deadline, validation.InclusiveRangeError(0, math.MaxInt32))}
	case deadline != nil && old != nil && *deadline > *old:
		return field.ErrorList{field.Invalid(path, *deadline, "must be less than or equal to previous value")}
	case deadline == nil && old != nil:
		return field.ErrorList{field.Invalid(path, deadline, "must not update from a positive integer to nil value")}
	}
	return nil
}

func validateGatesUpdate(gates, old []corev1.PodSchedulingGate) field.ErrorList {
	var errs field.ErrorList
	for i, gate := range gates {
		if !slices.Contains(old, gate) && !slices.Contains(gates[i+1:], gate) {
			errs = append(errs, field.Forbidden(specPath.Child("schedulingGates").Index(i).Child("name"),
				fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", gate.Name)))
		}
	}
	return errs
}

// validateTolerationsUpdate lets tolerations be added, and the time of one be changed.
func validateTolerationsUpdate(tolerations, old []corev1.Toleration) field.ErrorList {
	path := specPath.Child("tolerations")
	for _, before := range old {
		kept := slices.ContainsFunc(tolerations, func(now corev1.Toleration) bool {
			now.TolerationSeconds = before.TolerationSeconds
			return now == before
		})
		if !kept {
			return field.ErrorList{field.Forbidden(path, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return validate.Tolerations(tolerations, path)
}

// validateGatedUpdate lets the constraints of a pod that the scheduler has not seen yet become narrower. What it allows, it resets
// in masked.
func validateGatedUpdate(masked, old *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	if !validate.Equal(masked.NodeSelector, old.NodeSelector) {
		for key, value := range old.NodeSelector {
			if now, ok := masked.NodeSelector[key]; !ok || now != value {
				errs = append(errs, field.Invalid(specPath.Child("nodeSelector"), masked.NodeSelector,
					"only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
				break
			}
		}
		masked.NodeSelector = old.NodeSelector
	}
	var now, before *corev1.NodeAffinity
	if masked.Affinity != nil {
		now = masked.Affinity.NodeAffinity
	}
	if old.Affinity != nil {
		before = old.Affinity.NodeAffinity
	}
	if validate.Equal(now, before) {
		return errs
	}
	errs = append(errs, narrowerNodeAffinity(now, before, specPath.Child("affinity", "nodeAffinity"))...)
	switch {
	case old.Affinity != nil && masked.Affinity != nil:
		masked.Affinity.NodeAffinity = before
	case old.Affinity == nil && masked.Affinity.PodAffinity == nil && masked.Affinity.PodAntiAffinity == nil:
		masked.Affinity = nil
	case old.Affinity == nil:
		masked.Affinity.NodeAffinity = nil
	}
	return errs
}

func narrowerNodeAffinity(now, before *corev1.NodeAffinity, path *field.Path) field.ErrorList {
	if before == nil || before.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil // a first requirement only narrows
	}
	path = path.Child("requiredDuringSchedulingIgnoredDuringExecution")
	was := before.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(was) == 0 {
		return nil // matches no node; anything is allowed
	}
	var is []corev1.NodeSelectorTerm
	if now != nil && now.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		is = now.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	terms := path.Child("nodeSelectorTerms")
	if len(is) != len(was) {
		return field.ErrorList{field.Invalid(terms, is, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i := range was {
		if len(was[i].MatchExpressions)+len(was[i].MatchFields) == 0 && len(is[i].MatchExpressions)+len(is[i].MatchFields) > 0 {
			errs = append(errs, field.Invalid(terms.Index(i), is[i], "only additions are allowed (no mutations or deletions)"))
			continue
		}
		if !isPrefix(was[i].MatchExpressions, is[i].MatchExpressions) || !isPrefix(was[i].MatchFields, is[i].MatchFields) {
			errs = append(errs, field.Invalid(terms.Index(i), is[i], "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

// isPrefix tells whether list begins with prefix.
func isPrefix(prefix, list []corev1.NodeSelectorRequirement) bool {
	return len(prefix) <= len(list) && validate.Equal(prefix, list[:len(prefix):len(prefix)])
}

// sortedKeys makes errors about a map come in the same order every time.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
