package core

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/diff"
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
	if isMirror(old) {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	errs := validatePodMetadataAndSpec(p)
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

// PreparePodResize keeps of an update of pods/resize only what containers (and the pod) ask for. A list of other containers is left
// as it is, for validation to refuse.
func PreparePodResize(p, old *corev1.Pod) {
	asked, version, managed := p.Spec, p.ResourceVersion, p.ManagedFields
	result := old.DeepCopy()
	result.Spec.Containers = withResources(result.Spec.Containers, asked.Containers)
	result.Spec.InitContainers = withResources(result.Spec.InitContainers, asked.InitContainers)
	if asked.Resources != nil { // clients that do not know the field must not drop it
		result.Spec.Resources = asked.Resources
	}
	completePodLevelResources(result)
	*p = *result
	p.ResourceVersion, p.ManagedFields = version, managed
	bumpGeneration(p, old)
}

// withResources are the old containers with the resources that are asked for, or the asked ones if they are not the same containers.
func withResources(old, asked []corev1.Container) []corev1.Container {
	if !slices.EqualFunc(old, asked, func(a, b corev1.Container) bool { return a.Name == b.Name }) {
		return asked
	}
	for i := range old {
		old[i].Resources, old[i].ResizePolicy = asked[i].Resources, asked[i].ResizePolicy
	}
	return old
}

// ValidatePodResize lets CPU and memory change in place, as long as the pod keeps its class (KEP-1287, KEP-5419).
func ValidatePodResize(p, old *corev1.Pod) field.ErrorList {
	if isMirror(old) {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(specPath.Child("os"), "windows pods cannot be resized")}
	}
	errs := validatePodMetadataAndSpec(p)
	if PodQOS(old) != ComputePodQOS(p) {
		errs = append(errs, field.Invalid(specPath, p.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	if !reportsResources(old) {
		errs = append(errs, field.Forbidden(specPath, "Pod running on node without support for resize"))
	}
	masked := p.Spec.DeepCopy()
	errs = append(errs, validateResizedPod(masked, old)...)
	order := append(validateSameContainers(p.Spec.Containers, old.Spec.Containers, "containers"),
		validateSameContainers(p.Spec.InitContainers, old.Spec.InitContainers, "initContainers")...)
	if len(order) > 0 {
		return append(errs, order...)
	}
	errs = append(errs, validateResizedContainers(masked, old)...)
	if len(errs) == 0 && !validate.Equal(*masked, old.Spec) {
		errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable"))
	}
	return errs
}

// reportsResources is false for a pod on a node that is too old to resize it.
func reportsResources(p *corev1.Pod) bool {
	for i := range p.Status.ContainerStatuses {
		if s := &p.Status.ContainerStatuses[i]; s.State.Running != nil {
			return s.Resources != nil
		}
	}
	return true
}

func validateSameContainers(now, old []corev1.Container, list string) field.ErrorList {
	path := specPath.Child(list)
	if len(now) != len(old) {
		return field.ErrorList{field.Forbidden(path, list+" may not be added or removed on resize")}
	}
	var errs field.ErrorList
	for i := range old {
		if now[i].Name != old[i].Name {
			errs = append(errs, field.Forbidden(path.Index(i).Child("name"), list+" may not be renamed or reordered on resize"))
		}
	}
	return errs
}

// validateResizedPod judges the resources of the pod as a whole, and undoes in masked what is allowed to change.
func validateResizedPod(masked *corev1.PodSpec, old *corev1.Pod) field.ErrorList {
	if masked.Resources == nil {
		return nil // Prepare has kept the old ones if there were any
	}
	path, before := specPath.Child("resources"), old.Spec.Resources
	if before == nil {
		before = &corev1.ResourceRequirements{}
	}
	errs := validateResizedRequirements(masked.Resources, before, path, "pod-level resource")
	if old.Spec.Resources == nil && len(masked.Resources.Requests)+len(masked.Resources.Limits)+len(masked.Resources.Claims) == 0 {
		masked.Resources = nil
	}
	if !validate.Equal(masked.Resources, old.Spec.Resources) {
		errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable at pod-level"))
	}
	return errs
}

// validateResizedContainers does the same for the containers, which are those that the pod had.
func validateResizedContainers(masked *corev1.PodSpec, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	for i := range old.Spec.InitContainers {
		now, before, path := &masked.InitContainers[i], &old.Spec.InitContainers[i], specPath.Child("initContainers").Index(i)
		changed := !validate.Equal(now, before)
		errs = append(errs, validateResizedRequirements(&now.Resources, &before.Resources, path.Child("resources"), "resource")...)
		if !validate.Equal(now, before) {
			errs = append(errs, field.Forbidden(path, "only cpu and memory resources for init or sidecar containers are mutable"))
		}
		for _, p := range now.ResizePolicy {
			if changed && !IsSidecar(before) && p.RestartPolicy == corev1.RestartContainer {
				errs = append(errs, field.Forbidden(path, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))
			}
		}
	}
	for i := range old.Spec.Containers {
		now, before, path := &masked.Containers[i], &old.Spec.Containers[i], specPath.Child("containers").Index(i)
		errs = append(errs, validateResizedRequirements(&now.Resources, &before.Resources, path.Child("resources"), "resource")...)
		if !validate.Equal(now, before) {
			errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable"))
		}
	}
	return errs
}

func validateResizedRequirements(masked, old *corev1.ResourceRequirements, path *field.Path, what string) field.ErrorList {
	errs := validateResizedList(&masked.Requests, old.Requests, path.Child("requests"), what+" requests cannot be removed")
	return append(errs, validateResizedList(&masked.Limits, old.Limits, path.Child("limits"), what+" limits cannot be removed")...)
}

func validateResizedList(masked *corev1.ResourceList, old corev1.ResourceList, path *field.Path, removed string) field.ErrorList {
	var errs field.ErrorList
	for name := range old {
		if _, ok := (*masked)[name]; !ok {
			errs = field.ErrorList{field.Forbidden(path, removed)}
		}
	}
	result := maps.Clone(*masked)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		delete(result, name)
		if quantity, ok := old[name]; ok {
			if result == nil {
				result = corev1.ResourceList{}
			}
			result[name] = quantity
		}
	}
	*masked = result
	return errs
}
