package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// podDisruptionBudget says how many pods of a set may be evicted at a time.
var podDisruptionBudget = resource.Definition[*policyv1.PodDisruptionBudget]{
	GroupVersion: policyv1.SchemeGroupVersion, Kind: "PodDisruptionBudget", AnyFinalizer: true, Plural: "poddisruptionbudgets", ShortNames: []string{"pdb"},
	Namespaced: true, HasStatus: true,
	ValidateName: func(string, bool) []string { return nil }, // no more than what every path asks for
	Validate:     validateBudget, ValidateStatus: validateBudgetStatus,
	Columns: resource.Columns([]resource.Column[*policyv1.PodDisruptionBudget]{
		{Name: "Min Available", Description: "The minimum number of pods that must be available.", Get: func(pdb *policyv1.PodDisruptionBudget) any {
			return orNotAvailable(pdb.Spec.MinAvailable)
		}},
		{Name: "Max Unavailable", Description: "The maximum number of pods that may be unavailable.", Get: func(pdb *policyv1.PodDisruptionBudget) any {
			return orNotAvailable(pdb.Spec.MaxUnavailable)
		}},
		{Name: "Allowed Disruptions", Type: "integer", Description: "Calculated number of pods that may be disrupted at this time.", Get: func(pdb *policyv1.PodDisruptionBudget) any {
			return int64(pdb.Status.DisruptionsAllowed)
		}},
	}...),
}

func orNotAvailable(value *intstr.IntOrString) string {
	if value == nil {
		return "N/A"
	}
	return value.String()
}

func validateBudget(pdb *policyv1.PodDisruptionBudget) field.ErrorList {
	spec, path := &pdb.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if spec.MinAvailable != nil && spec.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, *spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	for _, bound := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"minAvailable", spec.MinAvailable}, {"maxUnavailable", spec.MaxUnavailable}} {
		if bound.value != nil {
			errs = append(errs, validate.PositiveIntOrPercent(*bound.value, path.Child(bound.name))...)
			errs = append(errs, validate.AtMost100Percent(*bound.value, path.Child(bound.name))...)
		}
	}
	errs = append(errs, validate.LabelSelector(spec.Selector, path.Child("selector"))...)
	return append(errs, validate.OptionalOneOf(spec.UnhealthyPodEvictionPolicy, path.Child("unhealthyPodEvictionPolicy"),
		policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
}

func validateBudgetStatus(pdb, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	status, path := &pdb.Status, field.NewPath("status")
	errs := metav1validation.ValidateConditions(status.Conditions, path.Child("conditions"))
	errs = append(errs, validate.Nonnegative(status.DisruptionsAllowed, path.Child("disruptionsAllowed"))...)
	errs = append(errs, validate.Nonnegative(status.CurrentHealthy, path.Child("currentHealthy"))...)
	errs = append(errs, validate.Nonnegative(status.DesiredHealthy, path.Child("desiredHealthy"))...)
	return append(errs, validate.Nonnegative(status.ExpectedPods, path.Child("expectedPods"))...)
}
