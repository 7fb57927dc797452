package dra

import (
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	generated "keelson.dev/apis/generated/validation/resource"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

var sliceRules = rules[resourcev1.ResourceSlice](generated.Validate_ResourceSlice)

// resourceSlice lists devices of a pool.
var resourceSlice = resource.Definition[*resourcev1.ResourceSlice]{
	GroupVersion: resourcev1.SchemeGroupVersion, Kind: "ResourceSlice", NameOnce: true, Plural: "resourceslices", AllowUnconditionalUpdate: true, ReturnDeleted: true,
	GenerationOf: func(s *resourcev1.ResourceSlice) any { return &s.Spec },
	Default: func(s *resourcev1.ResourceSlice) {
		for i := range s.Spec.Devices {
			for j := range s.Spec.Devices[i].Taints {
				defaultTaint(&s.Spec.Devices[i].Taints[j])
			}
		}
	},
	Validate: func(s *resourcev1.ResourceSlice) field.ErrorList {
		return append(sliceRules.create(s), validateSlice(s)...)
	},
	ValidateUpdate: func(s, old *resourcev1.ResourceSlice) field.ErrorList {
		path := field.NewPath("spec")
		errs := append(sliceRules.update(s, old), validateSlice(s)...)
		errs = append(errs, validate.Immutable(s.Spec.Driver, old.Spec.Driver, path.Child("driver"))...)
		errs = append(errs, validate.Immutable(s.Spec.Pool.Name, old.Spec.Pool.Name, path.Child("pool", "name"))...)
		errs = append(errs, validate.Immutable(s.Spec.NodeName, old.Spec.NodeName, path.Child("nodeName"))...)
		return append(errs, validate.Immutable(s.Spec.NodeSelector, old.Spec.NodeSelector, path.Child("nodeSelector"))...)
	},
	Fields: map[string]func(*resourcev1.ResourceSlice) string{
		resourcev1.ResourceSliceSelectorNodeName: func(s *resourcev1.ResourceSlice) string { return ptr.Deref(s.Spec.NodeName, "") },
		resourcev1.ResourceSliceSelectorDriver:   func(s *resourcev1.ResourceSlice) string { return s.Spec.Driver },
	},
	Index: resourcev1.ResourceSliceSelectorNodeName,
	Columns: resource.Columns([]resource.Column[*resourcev1.ResourceSlice]{
		{Name: "Node", Description: sliceDoc("nodeName"), Get: func(s *resourcev1.ResourceSlice) any { return ptr.Deref(s.Spec.NodeName, "") }},
		{Name: "Driver", Description: sliceDoc("driver"), Get: func(s *resourcev1.ResourceSlice) any { return s.Spec.Driver }},
		{Name: "Pool", Description: sliceDoc("pool"), Get: func(s *resourcev1.ResourceSlice) any { return s.Spec.Pool.Name }},
	}...),
}

func sliceDoc(name string) string { return resourcev1.ResourceSliceSpec{}.SwaggerDoc()[name] }

// defaultTaint dates a taint; one that has a date keeps it.
func defaultTaint(taint *resourcev1.DeviceTaint) {
	if taint.TimeAdded == nil {
		now := metav1.Now().Rfc3339Copy()
		taint.TimeAdded = &now
	}
}

const (
	maxDevices         = resourcev1.ResourceSliceMaxDevices
	maxAttributes      = resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice
	sliceNodesRequired = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
)

func validateSlice(s *resourcev1.ResourceSlice) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	errs := validate.DNSSubdomain(spec.Driver, path.Child("driver"))
	errs = append(errs, validatePool(spec, path.Child("pool"))...)
	places := 0
	for _, set := range []bool{
		spec.NodeName != nil, spec.NodeSelector != nil, ptr.Deref(spec.AllNodes, false), ptr.Deref(spec.PerDeviceNodeSelection, false),
	} {
		if set {
			places++
		}
	}
	switch {
	case places == 0:
		errs = append(errs, field.Required(path, sliceNodesRequired))
	case places > 1:
		errs = append(errs, field.Invalid(path, nil, sliceNodesRequired+", but multiple fields are set"))
	}
	if spec.NodeName != nil {
		errs = append(errs, validate.DNSSubdomain(*spec.NodeName, path.Child("nodeName"))...)
	}
	if spec.NodeSelector != nil {
		errs = append(errs, validate.NodeSelector(spec.NodeSelector, path.Child("nodeSelector"))...)
	}
	if len(spec.Devices) > maxDevices {
		return append(errs, field.TooMany(path.Child("devices"), len(spec.Devices), maxDevices))
	}
	names := map[string]bool{}
	for i := range spec.Devices {
		device, devicePath := &spec.Devices[i], path.Child("devices").Index(i)
		errs = append(errs, validate.DNSLabel(device.Name, devicePath.Child("name"))...)
		if names[device.Name] {
			errs = append(errs, field.Duplicate(devicePath, device.Name))
		}
		names[device.Name] = true
		if total := len(device.Attributes) + len(device.Capacity); total > maxAttributes {
			errs = append(errs, field.Invalid(devicePath, total, "the total number of attributes and capacities must not exceed 32"))
		}
		for j := range device.Taints {
			errs = append(errs, validateTaint(&device.Taints[j], devicePath.Child("taints").Index(j))...)
		}
	}
	return errs
}

func validatePool(spec *resourcev1.ResourceSliceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.Pool.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	if spec.Pool.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(path.Child("resourceSliceCount"), spec.Pool.ResourceSliceCount, "must be greater than zero"))
	}
	if spec.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(path.Child("generation"), spec.Pool.Generation, "must be greater than or equal to zero"))
	}
	return errs
}
