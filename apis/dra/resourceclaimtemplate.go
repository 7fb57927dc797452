package dra

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	generated "keelson.dev/apis/generated/validation/resource"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

var claimTemplateRules = rules[resourcev1.ResourceClaimTemplate](generated.Validate_ResourceClaimTemplate)

// resourceClaimTemplate makes a claim for each pod.
var resourceClaimTemplate = resource.Definition[*resourcev1.ResourceClaimTemplate]{
	GroupVersion: resourcev1.SchemeGroupVersion, Kind: "ResourceClaimTemplate", Plural: "resourceclaimtemplates",
	Namespaced: true, AllowUnconditionalUpdate: true, ReturnDeleted: true,
	Default: func(t *resourcev1.ResourceClaimTemplate) { defaultClaim(&t.Spec.Spec) },
	Prepare: func(t, _ *resourcev1.ResourceClaimTemplate) { dropDerived(&t.Spec.Spec) },
	Validate: func(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
		return append(claimTemplateRules.create(t), validateTemplate(t)...)
	},
	ValidateUpdate: func(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
		errs := append(claimTemplateRules.update(t, old), validateTemplate(t)...)
		return append(errs, validate.Immutable(t.Spec, old.Spec, field.NewPath("spec"))...)
	},
}

func validateTemplate(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
	errs := validate.TemplateMetadata(&t.Spec.ObjectMeta, field.NewPath("spec", "metadata"))
	return append(errs, validateClaimSpec(&t.Spec.Spec, field.NewPath("spec", "spec"))...)
}
