package dra

import (
	"encoding/json"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
)

// validateClaimSpec checks what tags cannot: that constraints and configuration name requests that exist, and what is inside of
// the requests' free text.
func validateClaimSpec(spec *resourcev1.ResourceClaimSpec, path *field.Path) field.ErrorList {
	devices := path.Child("devices")
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range spec.Devices.Requests {
		request, requestPath := &spec.Devices.Requests[i], devices.Child("requests").Index(i)
		errs = append(errs, validate.DNSLabel(request.Name, requestPath.Child("name"))...)
		names.Insert(request.Name)
		if request.Exactly == nil && len(request.FirstAvailable) == 0 {
			errs = append(errs, field.Required(requestPath, "exactly one of `exactly` or `firstAvailable` is required"))
		}
		if request.Exactly != nil {
			exact := requestPath.Child("exactly")
			errs = append(errs, validateClassName(request.Exactly.DeviceClassName, exact)...)
			errs = append(errs, validateSelectors(request.Exactly.Selectors, exact.Child("selectors"))...)
			errs = append(errs, validateAmount(request.Exactly.AllocationMode, request.Exactly.Count, exact)...)
		}
		for j := range request.FirstAvailable {
			sub, subPath := &request.FirstAvailable[j], requestPath.Child("firstAvailable").Index(j)
			errs = append(errs, validate.DNSLabel(sub.Name, subPath.Child("name"))...)
			names.Insert(request.Name + "/" + sub.Name)
			errs = append(errs, validateClassName(sub.DeviceClassName, subPath)...)
			errs = append(errs, validateSelectors(sub.Selectors, subPath.Child("selectors"))...)
			errs = append(errs, validateAmount(sub.AllocationMode, sub.Count, subPath)...)
		}
	}
	for i, constraint := range spec.Devices.Constraints {
		constraintPath := devices.Child("constraints").Index(i)
		errs = append(errs, validateRequestNames(constraint.Requests, names, constraintPath.Child("requests"))...)
	}
	for i, config := range spec.Devices.Config {
		configPath := devices.Child("config").Index(i)
		errs = append(errs, validateRequestNames(config.Requests, names, configPath.Child("requests"))...)
		errs = append(errs, validateConfiguration(config.DeviceConfiguration, configPath)...)
	}
	return errs
}

func validateClassName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path.Child("deviceClassName"), "")}
	}
	return nil // the format is the business of the tags
}

func validateRequestNames(requests []string, known sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range requests {
		if !known.Has(name) {
			errs = append(errs, field.Invalid(path.Index(i), name,
				"must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"))
		}
	}
	return errs
}

func validateAmount(mode resourcev1.DeviceAllocationMode, count int64, path *field.Path) field.ErrorList {
	switch mode {
	case resourcev1.DeviceAllocationModeAll:
		if count != 0 {
			return field.ErrorList{field.Invalid(path.Child("count"), count, "must not be specified when allocationMode is 'All'")}
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if count <= 0 {
			return field.ErrorList{field.Invalid(path.Child("count"), count, "must be greater than zero")}
		}
	}
	return nil // other modes are the business of the tags
}

func validateSelectors(selectors []resourcev1.DeviceSelector, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, selector := range selectors {
		switch {
		case selector.CEL == nil:
			errs = append(errs, field.Required(path.Index(i).Child("cel"), ""))
		case selector.CEL.Expression == "":
			errs = append(errs, field.Required(path.Index(i).Child("cel", "expression"), ""))
		case len(selector.CEL.Expression) > resourcev1.CELSelectorExpressionMaxLength:
			errs = append(errs, field.TooLong(path.Index(i).Child("cel", "expression"), "", resourcev1.CELSelectorExpressionMaxLength))
		}
	}
	return errs
}

func validateConfiguration(config resourcev1.DeviceConfiguration, path *field.Path) field.ErrorList {
	opaque := path.Child("opaque")
	if config.Opaque == nil {
		return field.ErrorList{field.Required(opaque, "")}
	}
	parameters := opaque.Child("parameters")
	raw := config.Opaque.Parameters.Raw
	var object map[string]any
	switch {
	case len(raw) == 0:
		return field.ErrorList{field.Required(parameters, "")}
	case len(raw) > resourcev1.OpaqueParametersMaxLength:
		return field.ErrorList{field.TooLong(parameters, "", resourcev1.OpaqueParametersMaxLength)}
	case json.Unmarshal(raw, &object) != nil || object == nil:
		return field.ErrorList{field.Invalid(parameters, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}

func validateTaint(taint *resourcev1.DeviceTaint, path *field.Path) field.ErrorList {
	errs := validate.LabelName(taint.Key, path.Child("key"))
	if taint.Value != "" {
		errs = append(errs, validate.LabelValue(taint.Value, path.Child("value"))...)
	}
	return errs
}
