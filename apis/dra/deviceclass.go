package dra

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	generated "keelson.dev/apis/generated/validation/resource"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

var classRules = rules[resourcev1.DeviceClass](generated.Validate_DeviceClass)

// deviceClass names a selection of devices.
var deviceClass = resource.Definition[*resourcev1.DeviceClass]{
	GroupVersion: resourcev1.SchemeGroupVersion, Kind: "DeviceClass", Plural: "deviceclasses", AllowUnconditionalUpdate: true, ReturnDeleted: true,
	GenerationOf: func(c *resourcev1.DeviceClass) any { return &c.Spec },
	ValidateName: func(string, bool) []string { return nil }, // a tag does
	Validate: func(c *resourcev1.DeviceClass) field.ErrorList {
		return append(classRules.create(c), validateClass(c, &resourcev1.DeviceClass{})...)
	},
	ValidateUpdate: func(c, old *resourcev1.DeviceClass) field.ErrorList {
		return append(classRules.update(c, old), validateClass(c, old)...)
	},
}

// validateClass leaves alone what is stored already.
func validateClass(c, old *resourcev1.DeviceClass) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if !validate.Equal(c.Spec.Selectors, old.Spec.Selectors) {
		errs = validateSelectors(c.Spec.Selectors, path.Child("selectors"))
	}
	if validate.Equal(c.Spec.Config, old.Spec.Config) {
		return errs
	}
	return append(errs, each(c.Spec.Config, resourcev1.DeviceConfigMaxSize, path.Child("config"), func(config *resourcev1.DeviceClassConfiguration, at *field.Path) field.ErrorList {
		return validateConfiguration(config.DeviceConfiguration, at)
	})...)
}
