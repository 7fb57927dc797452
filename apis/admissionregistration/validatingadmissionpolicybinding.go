package admissionregistration

import (
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// validatingAdmissionPolicyBinding puts a policy into force.
var validatingAdmissionPolicyBinding = resource.Definition[*admissionregistrationv1.ValidatingAdmissionPolicyBinding]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "ValidatingAdmissionPolicyBinding", AnyFinalizer: true, Plural: "validatingadmissionpolicybindings",
	Categories: []string{"api-extensions"}, AllowUnconditionalUpdate: true,
	GenerationOf: func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) any { return &b.Spec },
	Default:      func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
	Validate: func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
		path := field.NewPath("spec")
		errs := validatePolicyName(b.Spec.PolicyName, path.Child("policyName"))
		errs = append(errs, validateParamRef(b.Spec.ParamRef, path.Child("paramRef"))...)
		errs = append(errs, validateMatch(b.Spec.MatchResources, path.Child("matchResources"))...) // upstream's spelling
		return append(errs, validateActions(b.Spec.ValidationActions, path.Child("validationActions"))...)
	},
	Columns: bindingColumns(
		func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) string { return b.Spec.PolicyName },
		func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) *admissionregistrationv1.ParamRef {
			return b.Spec.ParamRef
		}),
}

func validateActions(actions []admissionregistrationv1.ValidationAction, path *field.Path) field.ErrorList {
	if len(actions) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	for i, action := range actions {
		errs = append(errs, validate.OneOf(action, path.Index(i),
			admissionregistrationv1.Audit, admissionregistrationv1.Deny, admissionregistrationv1.Warn)...)
		if slices.Contains(actions[:i], action) {
			errs = append(errs, field.Duplicate(path.Index(i), action))
		}
	}
	if slices.Contains(actions, admissionregistrationv1.Deny) && slices.Contains(actions, admissionregistrationv1.Warn) {
		errs = append(errs, field.Invalid(path, actions, "must not contain both Deny and Warn (repeating the same validation failure "+
			"information in the API response and headers serves no purpose)"))
	}
	return errs
}
