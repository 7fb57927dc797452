package dra

import (
	"fmt"
	"strings"

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
	Prepare: func(s, old *resourcev1.ResourceSlice) {
		if old != nil && !validate.Equal(s.Spec, old.Spec) {
			s.Generation = old.Generation + 1 // upstream counts before it drops
		}
		dropSlice(&s.Spec)
	},
	Warn: func(s, _ *resourcev1.ResourceSlice) []string {
		if s.Spec.Driver == strings.ToLower(s.Spec.Driver) {
			return nil
		}
		return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", s.Spec.Driver)}
	},
	Validate: func(s *resourcev1.ResourceSlice) field.ErrorList {
		return append(sliceRules.create(s), validateSlice(s, &resourcev1.ResourceSlice{})...)
	},
	ValidateUpdate: func(s, old *resourcev1.ResourceSlice) field.ErrorList {
		path := field.NewPath("spec")
		errs := append(sliceRules.update(s, old), validateSlice(s, old)...)
		errs = append(errs, validate.Immutable(s.Spec.Driver, old.Spec.Driver, path.Child("driver"))...)
		errs = append(errs, validate.Immutable(s.Spec.Pool.Name, old.Spec.Pool.Name, path.Child("pool", "name"))...)
		return append(errs, validate.Immutable(s.Spec.NodeName, old.Spec.NodeName, path.Child("nodeName"))...)
	},
	Fields: map[string]func(*resourcev1.ResourceSlice) string{
		resourcev1.ResourceSliceSelectorNodeName: func(s *resourcev1.ResourceSlice) string { return ptr.Deref(s.Spec.NodeName, "") },
		resourcev1.ResourceSliceSelectorDriver:   func(s *resourcev1.ResourceSlice) string { return s.Spec.Driver },
	},
	Index: resourcev1.ResourceSliceSelectorNodeName,
	Columns: resource.Columns([]resource.Column[*resourcev1.ResourceSlice]{
		{Name: "Node", Description: sliceDoc("nodeName"), Get: func(s *resourcev1.ResourceSlice) any { return ptr.Deref(s.Spec.NodeName, "") }},
		{Name: "Driver", Description: sliceDoc("driver"), Get: func(s *resourcev1.ResourceSlice) any { return s.Spec.Driver }},
		{Name: "Pool", Description: resourcev1.ResourcePool{}.SwaggerDoc()["name"], Get: func(s *resourcev1.ResourceSlice) any { return s.Spec.Pool.Name }},
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

// dropSlice drops what is alpha and not built here.
func dropSlice(spec *resourcev1.ResourceSliceSpec) {
	spec.PartitionTypeAttribute, spec.SkipNodeOperations = nil, nil
	for i := range spec.Devices {
		device := &spec.Devices[i]
		device.NodeAllocatableResources = nil
		for name, attribute := range device.Attributes {
			attribute.BoolValues, attribute.IntValues, attribute.StringValues, attribute.VersionValues = nil, nil, nil, nil
			device.Attributes[name] = attribute
		}
		for j := range device.ConsumesCounters {
			device.ConsumesCounters[j].CompatibilityGroups = nil
		}
	}
}
