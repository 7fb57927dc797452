package node

import (
	"maps"
	"slices"

	nodev1 "k8s.io/api/node/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// runtimeClass names a way in which nodes run containers.
var runtimeClass = resource.Definition[*nodev1.RuntimeClass]{
	GroupVersion: nodev1.SchemeGroupVersion, Kind: "RuntimeClass", Plural: "runtimeclasses",
	Validate: validateRuntimeClass,
	ValidateUpdate: func(c, old *nodev1.RuntimeClass) field.ErrorList {
		return validate.Immutable(c.Handler, old.Handler, field.NewPath("handler"))
	},
	Warn: func(c, _ *nodev1.RuntimeClass) []string {
		if c.Scheduling == nil {
			return nil
		}
		var warnings []string
		for _, key := range slices.Sorted(maps.Keys(c.Scheduling.NodeSelector)) {
			warnings = append(warnings, core.WarnNodeLabel(key, field.NewPath("scheduling", "nodeSelector"))...)
		}
		return warnings
	},
	Columns: resource.Columns(resource.Column[*nodev1.RuntimeClass]{
		Name: "Handler", Description: nodev1.RuntimeClass{}.SwaggerDoc()["handler"],
		Get: func(c *nodev1.RuntimeClass) any { return c.Handler },
	}),
}

func validateRuntimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	errs := validate.DNSLabel(c.Handler, field.NewPath("handler"))
	if c.Overhead != nil {
		errs = append(errs, validate.ResourceList(c.Overhead.PodFixed, field.NewPath("overhead", "podFixed"), validate.ContainerResourceName)...)
	}
	if c.Scheduling == nil {
		return errs
	}
	path := field.NewPath("scheduling")
	errs = append(errs, metav1validation.ValidateLabels(c.Scheduling.NodeSelector, path.Child("nodeSelector"))...)
	tolerations := path.Child("tolerations")
	errs = append(errs, validate.Tolerations(c.Scheduling.Tolerations, tolerations)...)
	for i, toleration := range c.Scheduling.Tolerations {
		for j := range i {
			if validate.Equal(toleration, c.Scheduling.Tolerations[j]) {
				errs = append(errs, field.Duplicate(tolerations.Index(i), toleration))
				break
			}
		}
	}
	return errs
}
