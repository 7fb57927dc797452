package dra

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
	"keelson.dev/internal/devicecel"
)

// What tags say of the number of items and of their names, the generated rules report; the rules here do not look at the items of a
// list that is too long.

// requestNames are the requests of a claim, and their subrequests as request/subrequest.
func requestNames(claim *resourcev1.DeviceClaim) sets.Set[string] {
	names := sets.New[string]()
	for _, request := range claim.Requests {
		names.Insert(request.Name)
		for _, sub := range request.FirstAvailable {
			names.Insert(request.Name + "/" + sub.Name)
		}
	}
	return names
}

// validateClaimSpec checks what tags cannot: that constraints and configuration name requests that exist, and what is inside of
// the requests' free text.
func validateClaimSpec(spec *resourcev1.ResourceClaimSpec, path *field.Path) field.ErrorList {
	claim, devices := &spec.Devices, path.Child("devices")
	names := requestNames(claim)
	errs := each(claim.Requests, resourcev1.DeviceRequestsMaxSize, devices.Child("requests"), validateRequest)
	errs = append(errs, each(claim.Constraints, resourcev1.DeviceConstraintsMaxSize, devices.Child("constraints"), func(c *resourcev1.DeviceConstraint, at *field.Path) field.ErrorList {
		errs := validateRequestNames(c.Requests, names, at.Child("requests"))
		if c.MatchAttribute == nil && c.DistinctAttribute == nil {
			errs = append(errs, field.Required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
		}
		return errs
	})...)
	return append(errs, each(claim.Config, resourcev1.DeviceConfigMaxSize, devices.Child("config"), func(c *resourcev1.DeviceClaimConfiguration, at *field.Path) field.ErrorList {
		return append(validateRequestNames(c.Requests, names, at.Child("requests")), validateConfiguration(c.DeviceConfiguration, at)...)
	})...)
}

// each checks the items of a list that has not too many.
func each[T any](list []T, most int, path *field.Path, check func(*T, *field.Path) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		if len(list) > most {
			return nil
		}
		errs = append(errs, check(&list[i], path.Index(i))...)
	}
	return errs
}

func validateRequest(r *resourcev1.DeviceRequest, path *field.Path) field.ErrorList {
	errs := validate.DNSLabel(r.Name, path.Child("name"))
	exact := r.Exactly
	switch {
	case exact == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(path, "exactly one of `exactly` or `firstAvailable` is required"))
	case exact != nil && len(r.FirstAvailable) > 0:
		return append(errs, field.Invalid(path, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case exact != nil:
		at := path.Child("exactly")
		if exact.DeviceClassName == "" {
			errs = append(errs, field.Required(at.Child("deviceClassName"), ""))
		} else {
			errs = append(errs, validate.DNSSubdomain(exact.DeviceClassName, at.Child("deviceClassName"))...)
		}
		return append(errs, validateDemand(exact.Selectors, exact.AllocationMode, exact.Count, exact.Tolerations, at)...)
	}
	return append(errs, each(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, path.Child("firstAvailable"), func(sub *resourcev1.DeviceSubRequest, at *field.Path) field.ErrorList {
		return append(validate.DNSLabel(sub.Name, at.Child("name")), validateDemand(sub.Selectors, sub.AllocationMode, sub.Count, sub.Tolerations, at)...)
	})...)
}

// validateDemand checks what requests and subrequests have in common.
func validateDemand(selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64, tolerations []resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	errs := validateSelectors(selectors, path.Child("selectors"))
	switch {
	case mode == resourcev1.DeviceAllocationModeAll && count != 0:
		errs = append(errs, field.Invalid(path.Child("count"), count, "must not be specified when allocationMode is 'All'"))
	case mode == resourcev1.DeviceAllocationModeExactCount && count <= 0:
		errs = append(errs, field.Invalid(path.Child("count"), count, "must be greater than zero"))
	}
	return append(errs, validateTolerations(tolerations, path)...)
}

func validateTolerations(tolerations []resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, t := range tolerations {
		at := path.Child("tolerations").Index(i).Child("value")
		switch {
		case t.Operator == resourcev1.DeviceTolerationOpExists && t.Value != "":
			errs = append(errs, field.Invalid(at, t.Value, "must be empty for operator `Exists`"))
		case t.Operator == resourcev1.DeviceTolerationOpEqual:
			errs = append(errs, validate.LabelValue(t.Value, at)...)
		}
	}
	return errs
}

func validateRequestNames(requests []string, known sets.Set[string], path *field.Path) field.ErrorList {
	return each(requests, resourcev1.DeviceRequestsMaxSize, path, func(name *string, at *field.Path) field.ErrorList {
		return validateRequestName(*name, known, at)
	})
}

func validateRequestName(name string, known sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if parts := strings.Split(name, "/"); len(parts) <= 2 {
		for _, part := range parts {
			errs = append(errs, validate.DNSLabel(part, path)...)
		}
	}
	if !known.Has(name) {
		errs = append(errs, field.Invalid(path, name, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"))
	}
	return errs
}

func validateSelectors(selectors []resourcev1.DeviceSelector, path *field.Path) field.ErrorList {
	return each(selectors, resourcev1.DeviceSelectorsMaxSize, path, func(s *resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
		if s.CEL == nil {
			return field.ErrorList{field.Required(at.Child("cel"), "")}
		}
		at = at.Child("cel", "expression")
		if len(s.CEL.Expression) > resourcev1.CELSelectorExpressionMaxLength {
			return field.ErrorList{field.TooLong(at, "", resourcev1.CELSelectorExpressionMaxLength)}
		}
		return devicecel.Validate(s.CEL.Expression, resourcev1.CELSelectorExpressionMaxCost, at)
	})
}

func validateConfiguration(config resourcev1.DeviceConfiguration, path *field.Path) field.ErrorList {
	if config.Opaque == nil {
		return field.ErrorList{field.Required(path.Child("opaque"), "")}
	}
	return validateRaw(config.Opaque.Parameters, resourcev1.OpaqueParametersMaxLength, path.Child("opaque", "parameters"))
}

// validateRaw checks that free text is a JSON object of at most so many bytes.
func validateRaw(text runtime.RawExtension, most int, path *field.Path) field.ErrorList {
	var value any
	switch {
	case len(text.Raw) == 0:
		return field.ErrorList{field.Required(path, "")}
	case len(text.Raw) > most:
		return field.ErrorList{field.TooLong(path, "", most)}
	}
	if err := json.Unmarshal(text.Raw, &value); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err))}
	}
	switch value.(type) {
	case map[string]any:
		return nil
	case nil:
		return field.ErrorList{field.Required(path, "")}
	}
	return field.ErrorList{field.Invalid(path, "<value omitted>", "must be a valid JSON object")}
}

// validateTaint checks a taint of a device or of a rule.
func validateTaint(taint *resourcev1.DeviceTaint, path *field.Path) field.ErrorList {
	errs := validate.LabelName(taint.Key, path.Child("key"))
	if taint.Value != "" {
		errs = append(errs, validate.LabelValue(taint.Value, path.Child("value"))...)
	}
	return errs
}

// validatePoolName checks names with slashes between.
func validatePoolName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.PoolNameMaxLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, validate.DNSSubdomain(part, path)...)
	}
	return errs
}

// validateBinding checks the conditions of a device that binds late: both lists or none, nothing twice, nothing in both.
func validateBinding(conditions, failures []string, path *field.Path) field.ErrorList {
	at, failAt := path.Child("bindingConditions"), path.Child("bindingFailureConditions")
	name := func(s *string, at *field.Path) field.ErrorList { return validate.LabelName(*s, at) }
	errs := append(each(conditions, resourcev1.BindingConditionsMaxSize, at, name), each(failures, resourcev1.BindingFailureConditionsMaxSize, failAt, name)...)
	for i, condition := range conditions {
		if slices.Contains(conditions[:i], condition) {
			errs = append(errs, field.Duplicate(at.Index(i), condition))
		}
	}
	for i, condition := range failures {
		if slices.Contains(failures[:i], condition) {
			errs = append(errs, field.Duplicate(failAt.Index(i), condition))
		}
		if slices.Contains(conditions, condition) {
			errs = append(errs, field.Invalid(failAt.Index(i), condition, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	switch {
	case len(conditions) == 0 && len(failures) > 0:
		errs = append(errs, field.Invalid(at, conditions, "bindingConditions are required to use bindingFailureConditions"))
	case len(failures) == 0 && len(conditions) > 0:
		errs = append(errs, field.Invalid(failAt, failures, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}

// place is where a slice or a device may say which nodes it is for.
type place struct {
	nodeName     *string
	nodeSelector *corev1.NodeSelector
	allNodes     *bool
}

// validate lists the fields that are set, as errors name them.
func (p place) validate(empty string, path *field.Path) (set []string, errs field.ErrorList) {
	switch {
	case p.nodeName != nil && *p.nodeName == "":
		errs = append(errs, field.Invalid(path.Child("nodeName"), "", empty))
	case p.nodeName != nil:
		set = append(set, "`nodeName`")
		errs = append(errs, validate.DNSSubdomain(*p.nodeName, path.Child("nodeName"))...)
	}
	if p.nodeSelector != nil {
		set = append(set, "`nodeSelector`")
		errs = append(errs, validate.NodeSelector(p.nodeSelector, path.Child("nodeSelector"))...)
	}
	if ok, more := onlyTrue(p.allNodes, path.Child("allNodes")); ok {
		set = append(set, "`allNodes`")
	} else {
		errs = append(errs, more...)
	}
	return set, errs
}

func onlyTrue(value *bool, path *field.Path) (bool, field.ErrorList) {
	if value != nil && !*value {
		return false, field.ErrorList{field.Invalid(path, false, "must be either unset or set to true")}
	}
	return value != nil, nil
}

// exactlyOne checks that one of the fields is set.
func exactlyOne(set []string, required, several string, path *field.Path) field.ErrorList {
	switch len(set) {
	case 0:
		return field.ErrorList{field.Required(path, required)}
	case 1:
		return nil
	}
	return field.ErrorList{field.Invalid(path, "{"+strings.Join(set, ", ")+"}", several)}
}
