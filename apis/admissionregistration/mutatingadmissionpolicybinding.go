package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
)

// mutatingAdmissionPolicyBinding puts a policy into force.
var mutatingAdmissionPolicyBinding = resource.Definition[*admissionregistrationv1.MutatingAdmissionPolicyBinding]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "MutatingAdmissionPolicyBinding", AnyFinalizer: true, Plural: "mutatingadmissionpolicybindings",
	Categories: []string{"api-extensions"}, AllowUnconditionalUpdate: true,
	GenerationOf: func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) any { return &b.Spec },
	Default:      func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
	Validate: func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) field.ErrorList {
		path := field.NewPath("spec")
		errs := validatePolicyName(b.Spec.PolicyName, path.Child("policyName"))
		errs = append(errs, validateParamRef(b.Spec.ParamRef, path.Child("paramRef"))...)
		errs = append(errs, validateMutable(b.Spec.MatchResources, path.Child("matchResources"))...)
		return append(errs, validateMatch(b.Spec.MatchResources, path.Child("matchResources"))...) // upstream's spelling
	},
	Columns: bindingColumns(
		func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) string { return b.Spec.PolicyName },
		func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) *admissionregistrationv1.ParamRef {
			return b.Spec.ParamRef
		}),
}
