package validate

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// NodeSelector checks required node affinity, of pods and of volumes.
func NodeSelector(selector *corev1.NodeSelector, path *field.Path) field.ErrorList {
	termsPath := path.Child("nodeSelectorTerms")
	if len(selector.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(termsPath, "must have at least one node selector term")}
	}
	var errs field.ErrorList
	for i := range selector.NodeSelectorTerms {
		term, at := &selector.NodeSelectorTerms[i], termsPath.Index(i)
		errs = append(errs, nodeSelectorTerm(term, at)...)
		for j := range term.MatchExpressions {
			for k, value := range term.MatchExpressions[j].Values {
				errs = append(errs, LabelValue(value, at.Child("matchExpressions").Index(j).Child("values").Index(k))...)
			}
		}
	}
	return errs
}

// nodeSelectorTerm checks one alternative of a node selector, but for the values of labels: what is only preferred may name some that
// no node can have.
func nodeSelectorTerm(term *corev1.NodeSelectorTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range term.MatchExpressions {
		errs = append(errs, nodeLabelRequirement(&term.MatchExpressions[i], path.Child("matchExpressions").Index(i))...)
	}
	for i := range term.MatchFields {
		errs = append(errs, nodeFieldRequirement(&term.MatchFields[i], path.Child("matchFields").Index(i))...)
	}
	return errs
}

// PreferredNodeTerms checks preferred node affinity.
func PreferredNodeTerms(terms []corev1.PreferredSchedulingTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range terms {
		errs = append(errs, Weight(terms[i].Weight, path.Index(i).Child("weight"))...)
		errs = append(errs, nodeSelectorTerm(&terms[i].Preference, path.Index(i).Child("preference"))...)
	}
	return errs
}

// Weight demands 1 to 100.
func Weight(weight int32, path *field.Path) field.ErrorList {
	if weight >= 1 && weight <= 100 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, weight, "must be in the range 1-100")}
}

func nodeLabelRequirement(requirement *corev1.NodeSelectorRequirement, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	valuesPath := path.Child("values")
	switch requirement.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(requirement.Values) == 0 {
			errs = append(errs, field.Required(valuesPath, "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(requirement.Values) > 0 {
			errs = append(errs, field.Forbidden(valuesPath, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(requirement.Values) != 1 {
			errs = append(errs, field.Required(valuesPath, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		errs = append(errs, field.Invalid(path.Child("operator"), requirement.Operator, "not a valid selector operator"))
	}
	return append(errs, LabelName(requirement.Key, path.Child("key"))...)
}

// nodeFieldRequirement knows one field, the node's name, and two operators.
func nodeFieldRequirement(requirement *corev1.NodeSelectorRequirement, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch requirement.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(requirement.Values) != 1 {
			errs = append(errs, field.Required(path.Child("values"),
				"must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
	default:
		errs = append(errs, field.Invalid(path.Child("operator"), requirement.Operator, "not a valid selector operator"))
	}
	if requirement.Key != "metadata.name" {
		return append(errs, field.Invalid(path.Child("key"), requirement.Key, "not a valid field selector key"))
	}
	for i, value := range requirement.Values {
		errs = append(errs, ObjectName(value, path.Child("values").Index(i), apivalidation.NameIsDNSSubdomain)...)
	}
	return errs
}

// notTolerationOperator names the numeric operators, which are alpha, only to those who tried one.
func notTolerationOperator(operator corev1.TolerationOperator, path *field.Path) field.ErrorList {
	known := []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}
	if operator == corev1.TolerationOpLt || operator == corev1.TolerationOpGt {
		known = append(known, corev1.TolerationOpLt, corev1.TolerationOpGt)
	}
	return field.ErrorList{field.NotSupported(path, operator, known)}
}

// Tolerations checks a pod's (or runtime class's) tolerations. The numeric operators are alpha in 1.37 and not served.
func Tolerations(tolerations []corev1.Toleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range tolerations {
		errs = append(errs, toleration(&tolerations[i], path.Index(i))...)
	}
	return errs
}

func toleration(t *corev1.Toleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, LabelName(t.Key, path.Child("key"))...)
	}
	if t.Key == "" && t.Operator != corev1.TolerationOpExists {
		errs = append(errs, field.Invalid(path.Child("operator"), t.Operator,
			"operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
	}
	if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
		errs = append(errs, field.Invalid(path.Child("effect"), t.Effect,
			"effect must be 'NoExecute' when `tolerationSeconds` is set"))
	}
	switch t.Operator {
	case corev1.TolerationOpEqual, "":
		if messages := validation.IsValidLabelValue(t.Value); len(messages) != 0 {
			errs = append(errs, field.Invalid(path.Child("operator"), t.Value, strings.Join(messages, ";")))
		}
	case corev1.TolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(path.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'"))
		}
	default:
		errs = append(errs, notTolerationOperator(t.Operator, path.Child("operator"))...)
	}
	if t.Effect != "" {
		errs = append(errs, TaintEffect(t.Effect, path.Child("effect"))...)
	}
	return errs
}

// TaintEffect demands one of the three effects.
func TaintEffect(effect corev1.TaintEffect, path *field.Path) field.ErrorList {
	return RequiredOneOf(effect, path,
		corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

// Taints checks the taints of a node: well-formed, and one per key and effect.
func Taints(taints []corev1.Taint, path *field.Path) field.ErrorList {
	type identity struct {
		key    string
		effect corev1.TaintEffect
	}
	var errs field.ErrorList
	seen := map[identity]bool{}
	for i, taint := range taints {
		errs = append(errs, LabelName(taint.Key, path.Index(i).Child("key"))...)
		if messages := validation.IsValidLabelValue(taint.Value); len(messages) != 0 {
			errs = append(errs, field.Invalid(path.Index(i).Child("value"), taint.Value, strings.Join(messages, ";")))
		}
		errs = append(errs, TaintEffect(taint.Effect, path.Index(i).Child("effect"))...)
		id := identity{taint.Key, taint.Effect}
		if seen[id] {
			duplicate := field.Duplicate(path.Index(i), taint)
			duplicate.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, duplicate)
		}
		seen[id] = true
	}
	return errs
}
