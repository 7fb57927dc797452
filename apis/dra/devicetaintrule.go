package dra

import (
	resourcev1 "k8s.io/api/resource/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	generated "keelson.dev/apis/generated/validation/resource"
	"keelson.dev/apis/resource"
)

var taintRules = rules[resourcev1.DeviceTaintRule](generated.Validate_DeviceTaintRule)

// deviceTaintRule taints devices from outside their driver.
var deviceTaintRule = resource.Definition[*resourcev1.DeviceTaintRule]{
	GroupVersion: resourcev1.SchemeGroupVersion, Kind: "DeviceTaintRule", NameOnce: true, Plural: "devicetaintrules", HasStatus: true,
	AllowUnconditionalUpdate: true,
	Default:                  func(r *resourcev1.DeviceTaintRule) { defaultTaint(&r.Spec.Taint) },
	Validate: func(r *resourcev1.DeviceTaintRule) field.ErrorList {
		return append(taintRules.create(r), validateTaint(&r.Spec.Taint, field.NewPath("spec", "taint"))...)
	},
	ValidateUpdate: func(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
		return append(taintRules.update(r, old), validateTaint(&r.Spec.Taint, field.NewPath("spec", "taint"))...)
	},
	ValidateStatus: func(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
		return append(taintRules.updateStatus(r, old), metav1validation.ValidateConditions(r.Status.Conditions, field.NewPath("status", "conditions"))...)
	},
}
