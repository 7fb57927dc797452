package admissionregistration

import (
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// mutatingAdmissionPolicy is a set of changes, in CEL, to objects in requests.
var mutatingAdmissionPolicy = resource.Definition[*admissionregistrationv1.MutatingAdmissionPolicy]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "MutatingAdmissionPolicy", AnyFinalizer: true, Plural: "mutatingadmissionpolicies",
	Categories: []string{"api-extensions"}, AllowUnconditionalUpdate: true,
	GenerationOf: func(p *admissionregistrationv1.MutatingAdmissionPolicy) any { return &p.Spec },
	Default: func(p *admissionregistrationv1.MutatingAdmissionPolicy) {
		resource.SetDefaultPtr(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
		defaultMatch(p.Spec.MatchConstraints)
	},
	Validate: func(p *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
		return validateMutatingPolicy(&p.Spec, field.NewPath("spec"))
	},
	Columns: policyColumns("Mutations", "Mutation indicates the number of mutations rules defined in this configuration",
		func(p *admissionregistrationv1.MutatingAdmissionPolicy) int { return len(p.Spec.Mutations) },
		func(p *admissionregistrationv1.MutatingAdmissionPolicy) *admissionregistrationv1.ParamKind {
			return p.Spec.ParamKind
		}),
}

func validateMutatingPolicy(spec *admissionregistrationv1.MutatingAdmissionPolicySpec, path *field.Path) field.ErrorList {
	errs := validateFailurePolicy(spec.FailurePolicy, path.Child("failurePolicy"))
	errs = append(errs, validateParamKind(spec.ParamKind, path.Child("paramKind"))...)
	errs = append(errs, validateConstraints(spec.MatchConstraints, path.Child("matchConstraints"))...)
	errs = append(errs, validateMutable(spec.MatchConstraints, path.Child("matchConstraints"))...)
	errs = append(errs, validateMatchConditions(spec.MatchConditions, path.Child("matchConditions"))...)
	errs = append(errs, validateVariables(spec.Variables, path.Child("variables"))...)
	if len(spec.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range spec.Mutations {
		errs = append(errs, validateMutation(&spec.Mutations[i], path.Child("mutations").Index(i))...)
	}
	return append(errs, validate.RequiredOneOf(spec.ReinvocationPolicy, path.Child("reinvocationPolicy"),
		admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)...)
}

func validateMutation(m *admissionregistrationv1.Mutation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, member := range []struct {
		kind       admissionregistrationv1.PatchType
		name       string
		set        bool
		expression func() string
	}{
		{admissionregistrationv1.PatchTypeApplyConfiguration, "applyConfiguration", m.ApplyConfiguration != nil, func() string { return m.ApplyConfiguration.Expression }},
		{admissionregistrationv1.PatchTypeJSONPatch, "jsonPatch", m.JSONPatch != nil, func() string { return m.JSONPatch.Expression }},
	} {
		memberPath := path.Child(member.name)
		switch {
		case m.PatchType != member.kind && member.set:
			if m.PatchType != admissionregistrationv1.PatchTypeApplyConfiguration && m.PatchType != admissionregistrationv1.PatchTypeJSONPatch {
				continue // reported with the type
			}
			errs = append(errs, field.Invalid(memberPath, "{"+member.name+"}", "must not be specified when patchType is "+string(m.PatchType)))
		case m.PatchType == member.kind && !member.set:
			errs = append(errs, field.Required(memberPath, "must be specified when patchType is "+string(member.kind)))
		case member.set && strings.TrimSpace(member.expression()) == "":
			errs = append(errs, field.Required(memberPath.Child("expression"), ""))
		}
	}
	return append(errs, validate.RequiredOneOf(m.PatchType, path.Child("patchType"),
		admissionregistrationv1.PatchTypeApplyConfiguration, admissionregistrationv1.PatchTypeJSONPatch)...)
}
