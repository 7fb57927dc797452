package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"keelson.dev/apis/validate"
)

// validatePodResources checks what the pod as a whole asks for, by itself and against the sum of its containers.
func validatePodResources(c *podContext, specPath *field.Path) field.ErrorList {
	spec := c.spec
	if spec.Resources == nil {
		return nil
	}
	path := specPath.Child("resources")
	if spec.OS != nil && spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(path, "may not be set for a windows pod")}
	}
	var errs field.ErrorList
	if spec.Resources.Claims != nil {
		errs = append(errs, field.Forbidden(path.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	errs = append(errs, validate.ResourceRequirements(spec.Resources, c.claims, path, podLevelResourceName)...)
	pod := &corev1.Pod{Spec: *spec}
	requested := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range validate.SortedNames(requested) {
		sum, own := requested[name], spec.Resources.Requests[name]
		if _, ok := spec.Resources.Requests[name]; ok && sum.Cmp(own) > 0 {
			errs = append(errs, field.Invalid(path.Child("requests").Key(string(name)), own.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String())))
		}
	}
	limited := resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range validate.SortedNames(limited) {
		sum, own := limited[name], spec.Resources.Limits[name]
		if _, ok := spec.Resources.Limits[name]; ok && validate.IsHugePages(name) && sum.Cmp(own) > 0 {
			errs = append(errs, field.Invalid(path.Child("limits").Key(string(name)), own.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container limits of %s", sum.String())))
		}
	}
	// A single container may not have more than the whole; their sum may, since they share.
	visitContainers(spec, func(list string, i int, c *corev1.Container) {
		for _, name := range validate.SortedNames(c.Resources.Limits) {
			whole, ok := spec.Resources.Limits[name]
			if limit := c.Resources.Limits[name]; ok && limit.Cmp(whole) > 0 {
				errs = append(errs, field.Invalid(path.Child(list).Index(i).Key(string(name)).Child("limits"), limit.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", whole.String())))
			}
		}
	})
	return errs
}

func podLevelResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	errs := validate.ResourceName(name, path)
	if len(errs) == 0 && !resourcehelper.IsSupportedPodLevelResource(name) {
		errs = append(errs, field.NotSupported(path, name, sets.List(resourcehelper.SupportedPodLevelResources())))
	}
	return errs
}
