package dra

import (
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/core"
	generated "keelson.dev/apis/generated/validation/resource"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

var taintRules = rules[resourcev1.DeviceTaintRule](generated.Validate_DeviceTaintRule)

// deviceTaintRule taints devices from outside their driver.
var deviceTaintRule = resource.Definition[*resourcev1.DeviceTaintRule]{
	GroupVersion: resourcev1.SchemeGroupVersion, Kind: "DeviceTaintRule", NameOnce: true, Plural: "devicetaintrules", HasStatus: true, StatusFixes: []string{"metadata"},
	AllowUnconditionalUpdate: true,
	Default:                  func(r *resourcev1.DeviceTaintRule) { defaultTaint(&r.Spec.Taint) },
	Prepare: func(r, old *resourcev1.DeviceTaintRule) {
		// timeAdded is that of the effect: tolerations count from it. A client that sets it has its way.
		if old != nil && r.Spec.Taint.Effect != old.Spec.Taint.Effect && r.Spec.Taint.TimeAdded.Equal(old.Spec.Taint.TimeAdded) {
			r.Spec.Taint.TimeAdded = &metav1.Time{Time: time.Now().Truncate(time.Second)}
		}
	},
	Validate: func(r *resourcev1.DeviceTaintRule) field.ErrorList {
		return append(taintRules.create(r), validateTaintRule(r)...)
	},
	ValidateUpdate: func(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
		return append(taintRules.update(r, old), validateTaintRule(r)...)
	},
	ValidateStatus: func(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
		path := field.NewPath("status", "conditions")
		errs := append(taintRules.updateStatus(r, old), metav1validation.ValidateConditions(r.Status.Conditions, path)...)
		return append(errs, atMost(len(r.Status.Conditions), resourcev1.DeviceTaintRuleStatusMaxConditions, path)...)
	},
	Columns: resource.Columns(
		taintColumn("Key", func(t *resourcev1.DeviceTaint) string { return t.Key }),
		taintColumn("Value", func(t *resourcev1.DeviceTaint) string { return t.Value }),
		taintColumn("Effect", func(t *resourcev1.DeviceTaint) string { return string(t.Effect) }),
		taintColumn("TimeAdded", func(t *resourcev1.DeviceTaint) string {
			if t.TimeAdded == nil {
				return ""
			}
			return resource.Age(*t.TimeAdded)
		}),
	),
}

func taintColumn(name string, get func(*resourcev1.DeviceTaint) string) resource.Column[*resourcev1.DeviceTaintRule] {
	return resource.Column[*resourcev1.DeviceTaintRule]{
		Name: name, Description: resourcev1.DeviceTaint{}.SwaggerDoc()[strings.ToLower(name[:1])+name[1:]],
		Get: func(r *resourcev1.DeviceTaintRule) any { return get(&r.Spec.Taint) },
	}
}

func validateTaintRule(r *resourcev1.DeviceTaintRule) field.ErrorList {
	errs := validateTaint(&r.Spec.Taint, field.NewPath("spec", "taint"))
	selector, path := r.Spec.DeviceSelector, field.NewPath("spec", "deviceSelector")
	if selector == nil {
		return errs
	}
	if selector.Driver != nil {
		errs = append(errs, core.ValidateCSIDriverName(*selector.Driver, path.Child("driver"))...)
	}
	if selector.Pool != nil {
		errs = append(errs, validatePoolName(*selector.Pool, path.Child("pool"))...)
	}
	if selector.Device != nil {
		errs = append(errs, validate.DNSLabel(*selector.Device, path.Child("device"))...)
	}
	return errs
}
