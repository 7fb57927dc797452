package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
)

// ValidatePodBinding checks what a scheduler posts to pods/binding.
func ValidatePodBinding(binding *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if kind := binding.Target.Kind; kind != "" && kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), kind, []string{"Node", "<empty>"}))
	}
	if binding.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	return errs
}

// PreparePodEphemeralContainers keeps of an update of pods/ephemeralcontainers only the ephemeral containers.
func PreparePodEphemeralContainers(p, old *corev1.Pod) {
	containers, version := p.Spec.EphemeralContainers, p.ResourceVersion
	managed := p.ManagedFields
	old.DeepCopyInto(p)
	p.ResourceVersion, p.ManagedFields = version, managed
	p.Spec.EphemeralContainers = containers
	DefaultPodSpec(&p.Spec)
	dropAlphaFields(&p.Spec)
	bumpGeneration(p, old)
}

// bumpGeneration counts changes of the spec that come by subresources.
func bumpGeneration(p, old *corev1.Pod) {
	p.Generation = old.Generation
	if !validate.Equal(p.Spec, old.Spec) {
		p.Generation++
	}
}

// ValidatePodEphemeralContainersUpdate lets ephemeral containers be added, never changed or removed.
func ValidatePodEphemeralContainersUpdate(p, old *corev1.Pod) field.ErrorList {
	path := specPath.Child("ephemeralContainers")
	if _, static := old.Annotations[mirrorPodAnnotation]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	errs := ValidatePodSpec(&p.Spec, specPath)
	now := map[string]*corev1.EphemeralContainer{}
	for i := range p.Spec.EphemeralContainers {
		now[p.Spec.EphemeralContainers[i].Name] = &p.Spec.EphemeralContainers[i]
	}
	for i := range old.Spec.EphemeralContainers {
		before := &old.Spec.EphemeralContainers[i]
		if after, ok := now[before.Name]; !ok {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", before.Name)))
		} else if !validate.Equal(before, after) {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", before.Name, diff.Diff(before, after))))
		}
	}
	return errs
}

// PreparePodResize keeps of an update of pods/resize only what containers (and the pod) ask for.
func PreparePodResize(p, old *corev1.Pod) {
	asked, version, managed := p.Spec, p.ResourceVersion, p.ManagedFields
	result := old.DeepCopy()
	copyResources(result.Spec.Containers, asked.Containers)
	copyResources(result.Spec.InitContainers, asked.InitContainers)
	result.Spec.Resources = asked.Resources
	*p = *result
	p.ResourceVersion, p.ManagedFields = version, managed
	bumpGeneration(p, old)
}

// copyResources copies by name; that lists differ otherwise is left to nobody: they are not what /resize is about.
func copyResources(to, from []corev1.Container) {
	asked := map[string]*corev1.Container{}
	for i := range from {
		asked[from[i].Name] = &from[i]
	}
	for i := range to {
		if c, ok := asked[to[i].Name]; ok {
			to[i].Resources = c.Resources
			to[i].ResizePolicy = c.ResizePolicy
		}
	}
}

// ValidatePodResize lets CPU and memory change in place, as long as the pod keeps its class.
func ValidatePodResize(p, old *corev1.Pod) field.ErrorList {
	if _, static := old.Annotations[mirrorPodAnnotation]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(specPath.Child("os"), "windows pods cannot be resized")}
	}
	errs := ValidatePodSpec(&p.Spec, specPath)
	if PodQOS(old) != ComputePodQOS(p) {
		errs = append(errs, field.Invalid(specPath, ComputePodQOS(p), "Pod QOS Class may not change as a result of resizing"))
	}
	masked := p.Spec.DeepCopy()
	errs = append(errs, validateResizedContainers(masked.Containers, old.Spec.Containers, specPath.Child("containers"), true)...)
	errs = append(errs, validateResizedContainers(masked.InitContainers, old.Spec.InitContainers, specPath.Child("initContainers"), false)...)
	if masked.Resources != nil && old.Spec.Resources != nil {
		errs = append(errs, validateResizedRequirements(masked.Resources, old.Spec.Resources, specPath.Child("resources"))...)
	}
	if !validate.Equal(*masked, old.Spec) {
		errs = append(errs, field.Forbidden(specPath, fmt.Sprintf("only cpu and memory resources are mutable\n%v", diff.Diff(*masked, old.Spec))))
	}
	return errs
}

// validateResizedContainers undoes in masked what is allowed to change.
func validateResizedContainers(masked, old []corev1.Container, path *field.Path, all bool) field.ErrorList {
	var errs field.ErrorList
	for i := range min(len(masked), len(old)) {
		if !all && !IsSidecar(&old[i]) {
			continue
		}
		if len(old[i].ResizePolicy) > 0 || len(masked[i].ResizePolicy) > 0 {
			masked[i].ResizePolicy = old[i].ResizePolicy
		}
		errs = append(errs, validateResizedRequirements(&masked[i].Resources, &old[i].Resources, path.Index(i).Child("resources"))...)
	}
	return errs
}

func validateResizedRequirements(masked, old *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	errs := validateResizedList(&masked.Limits, old.Limits, path.Child("limits"), "resource limits cannot be removed")
	return append(errs, validateResizedList(&masked.Requests, old.Requests, path.Child("requests"), "resource requests cannot be removed")...)
}

func validateResizedList(masked *corev1.ResourceList, old corev1.ResourceList, path *field.Path, removed string) field.ErrorList {
	var errs field.ErrorList
	resizable := sets.New(corev1.ResourceCPU, corev1.ResourceMemory)
	result := corev1.ResourceList{}
	for name, quantity := range *masked {
		if !resizable.Has(name) {
			result[name] = quantity
		}
	}
	for name, quantity := range old {
		if !resizable.Has(name) {
			continue
		}
		if _, ok := (*masked)[name]; !ok {
			errs = append(errs, field.Forbidden(path, removed))
		}
		result[name] = quantity
	}
	*masked = result
	return errs
}
