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
	Validate: func(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
		errs := append(claimTemplateRules.create(t), validate.Labels(t.Spec.Labels, field.NewPath("spec", "metadata", "labels"))...)
		return append(errs, validateClaimSpec(&t.Spec.Spec, field.NewPath("spec", "spec"))...)
	},
	ValidateUpdate: func(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
		errs := claimTemplateRules.update(t, old)
		if len(errs) == 0 {
			errs = validate.Immutable(t.Spec, old.Spec, field.NewPath("spec"))
		}
		return errs
	},
}
