package node

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// runtimeClass names a way in which nodes run containers.
var runtimeClass = resource.Definition[*nodev1.RuntimeClass]{
	GroupVersion: nodev1.SchemeGroupVersion, Kind: "RuntimeClass", AnyFinalizer: true, Plural: "runtimeclasses",
	Validate: func(c *nodev1.RuntimeClass) field.ErrorList {
		return append(validateHandler(c.Handler, validate.Messages(handlerPath, c.Handler, content.IsDNS1123Label(c.Handler))), validateRuntimeClass(c)...)
	},
	ValidateUpdate: func(c, old *nodev1.RuntimeClass) field.ErrorList {
		errs := append(validateHandler(c.Handler, validate.DNSLabel(c.Handler, handlerPath)), validate.Fixed(c.Handler, old.Handler, handlerPath)...)
		return append(errs, validateRuntimeClass(c)...)
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
		Name: "Handler", // upstream looks for its description in the wrong place
		Get:  func(c *nodev1.RuntimeClass) any { return c.Handler },
	}),
}

var handlerPath = field.NewPath("handler")

func validateHandler(handler string, format field.ErrorList) field.ErrorList {
	if handler == "" {
		return field.ErrorList{field.Required(handlerPath, "")}
	}
	return format
}

func validateRuntimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	var errs field.ErrorList
	if c.Overhead != nil {
		limits := &corev1.ResourceRequirements{Limits: c.Overhead.PodFixed}
		errs = append(errs, validate.ResourceRequirements(limits, nil, field.NewPath("overhead"), validate.ContainerResourceName)...)
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
