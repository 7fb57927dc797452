package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
)

// podTemplate is a stored template; nothing in the cluster acts on it.
var podTemplate = resource.Definition[*corev1.PodTemplate]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "PodTemplate", NameOnce: true, Plural: "podtemplates",
	Namespaced: true, ReturnDeleted: true, AllowUnconditionalUpdate: true,
	Default:      func(t *corev1.PodTemplate) { DefaultPodTemplateSpec(&t.Template) },
	Prepare:      func(t, _ *corev1.PodTemplate) { PreparePodTemplate(&t.Template) },
	GenerationOf: func(t *corev1.PodTemplate) any { return &t.Template },
	Validate: func(t *corev1.PodTemplate) field.ErrorList {
		return ValidatePodTemplateSpec(&t.Template, field.NewPath("template"))
	},
	ValidateUpdate: func(t, old *corev1.PodTemplate) field.ErrorList {
		return ValidatePodTemplateSpecUpdate(&t.Template, &old.Template, field.NewPath("template"))
	},
	Warn: func(t, old *corev1.PodTemplate) []string {
		if old == nil {
			return PodTemplateWarnings(&t.Template, nil, field.NewPath("template"))
		}
		return PodTemplateWarnings(&t.Template, &old.Template, field.NewPath("template"))
	},
	Columns: []resource.Column[*corev1.PodTemplate]{
		resource.NameColumn[*corev1.PodTemplate](),
		{Name: "Containers", Description: "Names of each container in the template.", Get: func(t *corev1.PodTemplate) any { return ContainerNames(&t.Template.Spec) }},
		{Name: "Images", Description: "Images referenced by each container in the template.", Get: func(t *corev1.PodTemplate) any { return ContainerImages(&t.Template.Spec) }},
		{Name: "Pod Labels", Description: "The labels for the pod template.", Get: func(t *corev1.PodTemplate) any { return labels.FormatLabels(t.Template.Labels) }},
	},
}

// ContainerNames prints the names of the regular containers, for the wide columns of workloads.
func ContainerNames(spec *corev1.PodSpec) string {
	return joinContainers(spec, func(c *corev1.Container) string { return c.Name })
}

// ContainerImages prints the images of the regular containers.
func ContainerImages(spec *corev1.PodSpec) string {
	return joinContainers(spec, func(c *corev1.Container) string { return c.Image })
}

func joinContainers(spec *corev1.PodSpec, get func(*corev1.Container) string) string {
	var values []string
	for i := range spec.Containers {
		values = append(values, get(&spec.Containers[i]))
	}
	return strings.Join(values, ",")
}

// TemplateColumns are the wide columns that every controller of pods ends with; selector may be nil.
func TemplateColumns[T resource.Object](selectorDoc string, spec func(T) *corev1.PodSpec, selector func(T) string) []resource.Column[T] {
	columns := []resource.Column[T]{
		{Name: "Containers", Priority: 1, Description: "Names of each container in the template.", Get: func(obj T) any { return ContainerNames(spec(obj)) }},
		{Name: "Images", Priority: 1, Description: "Images referenced by each container in the template.", Get: func(obj T) any { return ContainerImages(spec(obj)) }},
	}
	if selector != nil {
		columns = append(columns, resource.Column[T]{Name: "Selector", Priority: 1, Description: selectorDoc, Get: func(obj T) any { return selector(obj) }})
	}
	return columns
}
