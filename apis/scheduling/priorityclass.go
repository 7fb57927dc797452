package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// The ranges of priority: what users may define, and the two classes of the system above.
const (
	SystemPrefix         = "system-"
	HighestUserPriority  = int32(1000000000)
	SystemCritical       = 2 * HighestUserPriority
	ClusterCriticalName  = SystemPrefix + "cluster-critical"
	NodeCriticalName     = SystemPrefix + "node-critical"
	NodeCriticalPriority = SystemCritical + 1000
)

// priorityClass names an importance of pods.
var priorityClass = resource.Definition[*schedulingv1.PriorityClass]{
	GroupVersion: schedulingv1.SchemeGroupVersion, Kind: "PriorityClass", NameOnce: true, Plural: "priorityclasses", ShortNames: []string{"pc"},
	AllowUnconditionalUpdate: true, GenerationOf: func(*schedulingv1.PriorityClass) any { return struct{}{} }, // it stays 1
	Default: func(c *schedulingv1.PriorityClass) {
		resource.SetDefaultPtr(&c.PreemptionPolicy, corev1.PreemptLowerPriority)
	},
	Validate: validatePriorityClass, ValidateUpdate: validatePriorityClassUpdate,
	Columns: append(resource.Columns([]resource.Column[*schedulingv1.PriorityClass]{
		{Name: "Value", Type: "integer", Description: doc("value"), Get: func(c *schedulingv1.PriorityClass) any { return int64(c.Value) }},
		{Name: "Global-Default", Type: "boolean", Description: doc("globalDefault"), Get: func(c *schedulingv1.PriorityClass) any { return c.GlobalDefault }},
	}...), resource.Column[*schedulingv1.PriorityClass]{
		Name: "PreemptionPolicy", Description: doc("preemptionPolicy"),
		Get: func(c *schedulingv1.PriorityClass) any { return string(ptr.Deref(c.PreemptionPolicy, "")) },
	}),
}

func doc(name string) string { return schedulingv1.PriorityClass{}.SwaggerDoc()[name] }

// SystemClasses are the classes that the API server itself keeps: the only ones that may have the reserved prefix.
func SystemClasses() []*schedulingv1.PriorityClass {
	class := func(name string, value int32, description string) *schedulingv1.PriorityClass {
		c := &schedulingv1.PriorityClass{Value: value, Description: description, PreemptionPolicy: new(corev1.PreemptLowerPriority)}
		c.Name = name
		return c
	}
	return []*schedulingv1.PriorityClass{
		class(NodeCriticalName, NodeCriticalPriority,
			"Used for system critical pods that must not be moved from their current node."),
		class(ClusterCriticalName, SystemCritical,
			"Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}

func validatePriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(c.Name, SystemPrefix) {
		if reason := checkSystemClass(c); reason != "" {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), fmt.Sprintf(
				"priority class names with '%s' prefix are reserved for system use only. error: %s", SystemPrefix, reason)))
		}
	} else if c.Value > HighestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"),
			fmt.Sprintf("maximum allowed value of a user defined priority is %v", HighestUserPriority)))
	}
	path := field.NewPath("preemptionPolicy")
	if ptr.Deref(c.PreemptionPolicy, "") == "" {
		return append(errs, field.Required(path, ""))
	}
	return append(errs, validate.OneOf(*c.PreemptionPolicy, path, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
}

func checkSystemClass(c *schedulingv1.PriorityClass) string {
	for _, known := range SystemClasses() {
		switch {
		case known.Name != c.Name:
		case known.Value != c.Value:
			return fmt.Sprintf("value of %v PriorityClass must be %v", known.Name, known.Value)
		case known.GlobalDefault != c.GlobalDefault:
			return fmt.Sprintf("globalDefault of %v PriorityClass must be %v", known.Name, known.GlobalDefault)
		default:
			return ""
		}
	}
	return fmt.Sprintf("%v is not a known system priority class", c.Name)
}

func validatePriorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if c.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return append(errs, validate.Immutable(c.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
}
