package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/validate"
)

// validateScheduling checks everything that decides where the pod goes and when it may go there.
func validateScheduling(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	errs := validateAffinity(spec.Affinity, path.Child("affinity"))
	errs = append(errs, validateSchedulingGates(spec.SchedulingGates, path.Child("schedulingGates"))...)
	for i, gate := range spec.ReadinessGates {
		errs = append(errs, validate.QualifiedName(string(gate.ConditionType), path.Child("readinessGates").Index(i).Child("conditionType"))...)
	}
	errs = append(errs, validate.Tolerations(spec.Tolerations, path.Child("tolerations"))...)
	return append(errs, validateTopologySpread(spec.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))...)
}

func validateSchedulingGates(gates []corev1.PodSchedulingGate, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, gate := range gates {
		errs = append(errs, validate.QualifiedName(gate.Name, path.Index(i))...)
		if seen.Has(gate.Name) {
			errs = append(errs, field.Duplicate(path.Index(i), gate.Name))
		}
		seen.Insert(gate.Name)
	}
	return errs
}

func validateAffinity(affinity *corev1.Affinity, path *field.Path) field.ErrorList {
	if affinity == nil {
		return nil
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	var errs field.ErrorList
	if a := affinity.NodeAffinity; a != nil {
		at := path.Child("nodeAffinity")
		if a.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			errs = append(errs, validate.NodeSelector(a.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(required))...)
		}
		errs = append(errs, validate.PreferredNodeTerms(a.PreferredDuringSchedulingIgnoredDuringExecution, at.Child(preferred))...)
	}
	if a := affinity.PodAffinity; a != nil {
		at := path.Child("podAffinity")
		errs = append(errs, affinityTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(required))...)
		errs = append(errs, weightedAffinityTerms(a.PreferredDuringSchedulingIgnoredDuringExecution, at.Child(preferred))...)
	}
	if a := affinity.PodAntiAffinity; a != nil {
		at := path.Child("podAntiAffinity")
		errs = append(errs, affinityTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(required))...)
		errs = append(errs, weightedAffinityTerms(a.PreferredDuringSchedulingIgnoredDuringExecution, at.Child(preferred))...)
	}
	return errs
}

func affinityTerms(terms []corev1.PodAffinityTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range terms {
		errs = append(errs, affinityTerm(&terms[i], path.Index(i))...)
	}
	return errs
}

func weightedAffinityTerms(terms []corev1.WeightedPodAffinityTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range terms {
		errs = append(errs, validate.Weight(terms[i].Weight, path.Index(i).Child("weight"))...)
		errs = append(errs, affinityTerm(&terms[i].PodAffinityTerm, path.Index(i).Child("podAffinityTerm"))...)
	}
	return errs
}

func affinityTerm(term *corev1.PodAffinityTerm, path *field.Path) field.ErrorList {
	errs := validate.LabelSelector(term.LabelSelector, path.Child("labelSelector"))
	errs = append(errs, validate.LabelSelector(term.NamespaceSelector, path.Child("namespaceSelector"))...)
	for _, namespace := range term.Namespaces {
		errs = append(errs, validate.ObjectName(namespace, path.Child("namespace"), apivalidation.NameIsDNSLabel)...)
	}
	errs = append(errs, validate.MatchLabelKeys(term.MatchLabelKeys, term.MismatchLabelKeys, term.LabelSelector, path)...)
	errs = append(errs, topologyKey(term.TopologyKey, path.Child("topologyKey"))...)
	return append(errs, validate.LabelName(term.TopologyKey, path.Child("topologyKey"))...)
}

func topologyKey(key string, path *field.Path) field.ErrorList {
	if key == "" {
		return field.ErrorList{field.Required(path, "can not be empty")}
	}
	return nil
}

func validateTopologySpread(constraints []corev1.TopologySpreadConstraint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range constraints {
		constraint, at := &constraints[i], path.Index(i)
		errs = append(errs, validate.Positive(constraint.MaxSkew, at.Child("maxSkew"))...)
		errs = append(errs, topologyKey(constraint.TopologyKey, at.Child("topologyKey"))...)
		errs = append(errs, validate.OneOf(constraint.WhenUnsatisfiable, at.Child("whenUnsatisfiable"),
			corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		for _, other := range constraints[i+1:] {
			if other.TopologyKey == constraint.TopologyKey && other.WhenUnsatisfiable == constraint.WhenUnsatisfiable {
				errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"),
					fmt.Sprintf("{%v, %v}", constraint.TopologyKey, constraint.WhenUnsatisfiable)))
				break
			}
		}
		errs = append(errs, minDomains(constraint, at.Child("minDomains"))...)
		errs = append(errs, validate.OptionalOneOf(constraint.NodeAffinityPolicy, at.Child("nodeAffinityPolicy"),
			corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
		errs = append(errs, validate.OptionalOneOf(constraint.NodeTaintsPolicy, at.Child("nodeTaintsPolicy"),
			corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
		errs = append(errs, validate.MatchLabelKeys(constraint.MatchLabelKeys, nil, constraint.LabelSelector, at)...)
		errs = append(errs, validate.LabelSelector(constraint.LabelSelector, at.Child("labelSelector"))...)
	}
	return errs
}

func minDomains(constraint *corev1.TopologySpreadConstraint, path *field.Path) field.ErrorList {
	if constraint.MinDomains == nil {
		return nil
	}
	errs := validate.Positive(*constraint.MinDomains, path)
	if constraint.WhenUnsatisfiable != corev1.DoNotSchedule {
		errs = append(errs, field.Invalid(path, ptr.Deref(constraint.MinDomains, 0), fmt.Sprintf("can only use minDomains if %s=%s, not %s",
			"whenUnsatisfiable", corev1.DoNotSchedule, constraint.WhenUnsatisfiable)))
	}
	return errs
}
