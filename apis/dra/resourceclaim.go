package dra

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	generated "keelson.dev/apis/generated/validation/resource"
	"keelson.dev/apis/resource"
)

var claimRules = rules[resourcev1.ResourceClaim](generated.Validate_ResourceClaim)

// resourceClaim asks for devices.
var resourceClaim = resource.Definition[*resourcev1.ResourceClaim]{
	GroupVersion: resourcev1.SchemeGroupVersion, Kind: "ResourceClaim", Plural: "resourceclaims",
	Namespaced: true, HasStatus: true, StatusFixes: []string{"metadata"}, AllowUnconditionalUpdate: true, ReturnDeleted: true,
	GenerationOf: resource.NoGeneration[*resourcev1.ResourceClaim],
	Default:      func(c *resourcev1.ResourceClaim) { defaultClaim(&c.Spec) },
	Validate: func(c *resourcev1.ResourceClaim) field.ErrorList {
		return append(claimRules.create(c), validateClaimSpec(&c.Spec, field.NewPath("spec"))...)
	},
	ValidateUpdate: claimRules.update, ValidateStatus: validateClaimStatus,
	Prepare:       func(c, _ *resourcev1.ResourceClaim) { dropDerived(&c.Spec) },
	PrepareStatus: prepareClaimStatus,
	Columns: resource.Columns(resource.Column[*resourcev1.ResourceClaim]{
		Name: "State", Description: "A summary of the current state (allocated, pending, reserved, etc.).",
		Get: func(c *resourcev1.ResourceClaim) any { return claimState(c) },
	}),
}

func claimState(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation == nil && c.DeletionTimestamp == nil:
		states = append(states, "pending")
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
		if len(c.Status.ReservedFor) > 0 {
			states = append(states, "reserved")
		}
	}
	return strings.Join(states, ",")
}

func defaultClaim(spec *resourcev1.ResourceClaimSpec) {
	for i := range spec.Devices.Requests {
		request := &spec.Devices.Requests[i]
		if exact := request.Exactly; exact != nil {
			defaultAmount(&exact.AllocationMode, &exact.Count)
			defaultTolerations(exact.Tolerations)
		}
		for j := range request.FirstAvailable {
			sub := &request.FirstAvailable[j]
			defaultAmount(&sub.AllocationMode, &sub.Count)
			defaultTolerations(sub.Tolerations)
		}
	}
}

func defaultAmount(mode *resourcev1.DeviceAllocationMode, count *int64) {
	resource.SetDefault(mode, resourcev1.DeviceAllocationModeExactCount)
	if *mode == resourcev1.DeviceAllocationModeExactCount {
		resource.SetDefault(count, 1)
	}
}

func defaultTolerations(tolerations []resourcev1.DeviceToleration) {
	for i := range tolerations {
		resource.SetDefault(&tolerations[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}

// dropDerived drops what is alpha and not built here.
func dropDerived(spec *resourcev1.ResourceClaimSpec) {
	for i := range spec.Devices.Requests {
		request := &spec.Devices.Requests[i]
		if request.Exactly != nil {
			request.Exactly.DerivedAttributes = nil
		}
		for j := range request.FirstAvailable {
			request.FirstAvailable[j].DerivedAttributes = nil
		}
	}
}
