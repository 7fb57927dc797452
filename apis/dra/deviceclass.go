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
	Validate: func(c *resourcev1.DeviceClass) field.ErrorList {
		return append(classRules.create(c), validateClass(c)...)
	},
	ValidateUpdate: func(c, old *resourcev1.DeviceClass) field.ErrorList {
		return append(classRules.update(c, old), validateClass(c)...)
	},
}

func validateClass(c *resourcev1.DeviceClass) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateSelectors(c.Spec.Selectors, path.Child("selectors"))
	for i, config := range c.Spec.Config {
		errs = append(errs, validateConfiguration(config.DeviceConfiguration, path.Child("config").Index(i))...)
	}
	if name := c.Spec.ExtendedResourceName; name != nil {
		errs = append(errs, validate.QualifiedName(*name, path.Child("extendedResourceName"))...)
	}
	return errs
}
