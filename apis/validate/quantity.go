package validate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// IsHugePages tells whether the resource is a size of huge pages.
func IsHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// IsNative tells whether Kubernetes itself defines the resource.
func IsNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// IsExtended tells whether the resource is counted by somebody outside, such as a device plugin.
func IsExtended(name corev1.ResourceName) bool {
	if IsNative(name) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	// A quota must be able to name it too.
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// IsOvercommitAllowed tells whether a limit may exceed the request.
func IsOvercommitAllowed(name corev1.ResourceName) bool { return IsNative(name) && !IsHugePages(name) }

// IsStandardContainer tells whether containers may use the unprefixed resource.
func IsStandardContainer(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || IsHugePages(name)
}

// integerResources are counted, not measured.
var integerResources = sets.New(corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices,
	corev1.ResourceReplicationControllers, corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
	corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers)

// standardResources are the unprefixed names that quotas, limits and nodes may use.
var standardResources = integerResources.Union(sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceStorage, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceRequestsStorage, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage))

// IsStandard tells whether quotas, limits and nodes may use the unprefixed resource.
func IsStandard(name corev1.ResourceName) bool {
	return standardResources.Has(name) || IsHugePages(name) ||
		strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// IsInteger tells whether fractions of the resource make no sense.
func IsInteger(name corev1.ResourceName) bool { return integerResources.Has(name) || IsExtended(name) }

// ResourceName checks the name of a resource in general.
func ResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	errs := QualifiedName(string(name), path)
	if len(errs) == 0 && !strings.Contains(string(name), "/") && !IsStandard(name) {
		errs = append(errs, field.Invalid(path, name, "must be a standard resource type or fully qualified"))
	}
	return errs
}

// ContainerResourceName checks the name of a resource that a container asks for.
func ContainerResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	errs := ResourceName(name, path)
	switch {
	case !strings.Contains(string(name), "/"):
		if !IsStandardContainer(name) {
			errs = append(errs, field.Invalid(path, name, "must be a standard resource for containers"))
		}
	case !IsNative(name) && !IsExtended(name):
		errs = append(errs, field.Invalid(path, name, "doesn't follow extended resource name standard"))
	}
	return errs
}

// NonnegativeQuantity demands an amount of at least zero.
func NonnegativeQuantity(value resource.Quantity, path *field.Path) field.ErrorList {
	if value.Sign() >= 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, value.String(), NegativeMessage).WithOrigin("minimum")}
}

// PositiveQuantity demands an amount above zero.
func PositiveQuantity(value resource.Quantity, path *field.Path) field.ErrorList {
	if value.Sign() > 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, value.String(), NotPositiveMessage)}
}

// ResourceQuantity demands an amount that makes sense for the resource.
func ResourceQuantity(name corev1.ResourceName, value resource.Quantity, path *field.Path) field.ErrorList {
	errs := NonnegativeQuantity(value, path)
	if IsInteger(name) && value.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(path, value.String(), NotIntegerMessage))
	}
	return errs
}

// hugePagesQuantity demands whole pages.
func hugePagesQuantity(name corev1.ResourceName, value resource.Quantity, path *field.Path) field.ErrorList {
	if !IsHugePages(name) {
		return nil
	}
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Sign() <= 0 || size.Value() <= 0 {
		return field.ErrorList{field.Invalid(path, value.String(), fmt.Sprintf("resource name %s must have a valid page size", name))}
	}
	if value.Value()%size.Value() != 0 {
		return field.ErrorList{field.Invalid(path, value.String(), fmt.Sprintf("%s is not positive integer multiple of %s", value.String(), name))}
	}
	return nil
}

// ResourceList checks amounts under arbitrary standard or qualified names, sorted by name.
func ResourceList(list corev1.ResourceList, path *field.Path, name func(corev1.ResourceName, *field.Path) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	for _, resourceName := range SortedNames(list) {
		key := path.Key(string(resourceName))
		errs = append(errs, name(resourceName, key)...)
		errs = append(errs, ResourceQuantity(resourceName, list[resourceName], key)...)
	}
	return errs
}

// SortedNames lists the keys in order, so that the same object gives the same errors every time.
func SortedNames(list corev1.ResourceList) []corev1.ResourceName {
	return slices.Sorted(maps.Keys(list))
}

// ResourceRequirements checks what a container (or, with its own rule for names, a pod) asks for. Claims must be among podClaims.
func ResourceRequirements(requirements *corev1.ResourceRequirements, podClaims sets.Set[string], path *field.Path,
	name func(corev1.ResourceName, *field.Path) field.ErrorList,
) field.ErrorList {
	if requirements == nil {
		return nil
	}
	limits, requests := path.Child("limits"), path.Child("requests")
	errs := requirementList(requirements.Limits, limits, name)
	errs = append(errs, requirementList(requirements.Requests, requests, name)...)
	for _, resourceName := range SortedNames(requirements.Requests) {
		request := requirements.Requests[resourceName]
		limit, limited := requirements.Limits[resourceName]
		switch {
		case limited && !IsOvercommitAllowed(resourceName) && request.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(requests, request.String(),
				fmt.Sprintf("must be equal to %s limit of %s", resourceName, limit.String())))
		case limited && request.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, request.String(),
				fmt.Sprintf("must be less than or equal to %s limit of %s", resourceName, limit.String())))
		case !limited && !IsOvercommitAllowed(resourceName):
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		}
	}
	if hasHugePages(requirements.Limits, requirements.Requests) && !hasCPUOrMemory(requirements.Limits, requirements.Requests) {
		errs = append(errs, field.Forbidden(path, "HugePages require cpu or memory"))
	}
	return append(errs, resourceClaims(requirements.Claims, podClaims, path.Child("claims"))...)
}

func requirementList(list corev1.ResourceList, path *field.Path, name func(corev1.ResourceName, *field.Path) field.ErrorList) field.ErrorList {
	errs := ResourceList(list, path, name)
	for _, resourceName := range SortedNames(list) {
		errs = append(errs, hugePagesQuantity(resourceName, list[resourceName], path.Key(string(resourceName)))...)
	}
	return errs
}

func hasHugePages(lists ...corev1.ResourceList) bool {
	return slices.ContainsFunc(lists, func(list corev1.ResourceList) bool {
		return slices.ContainsFunc(SortedNames(list), IsHugePages)
	})
}

func hasCPUOrMemory(lists ...corev1.ResourceList) bool {
	return slices.ContainsFunc(lists, func(list corev1.ResourceList) bool {
		_, cpu := list[corev1.ResourceCPU]
		_, memory := list[corev1.ResourceMemory]
		return cpu || memory
	})
}

func resourceClaims(claims []corev1.ResourceClaim, podClaims sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceClaim]()
	for i, claim := range claims {
		if claim.Name == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
			continue
		}
		// A claim without a request stands for all requests of that claim, so naming one of them beside it is a duplicate.
		if seen.Has(claim) || seen.Has(corev1.ResourceClaim{Name: claim.Name}) {
			errs = append(errs, field.Duplicate(path.Index(i), strings.TrimSuffix(claim.Name+"/"+claim.Request, "/")))
		}
		seen.Insert(claim)
		if claim.Request != "" {
			errs = append(errs, DNSLabel(claim.Request, path.Index(i).Child("request"))...)
		}
		if podClaims.Has(claim.Name) {
			continue
		}
		missing := field.NotFound(path.Index(i), claim.Name)
		missing.Detail = "must be one of the names in pod.spec.resourceClaims which is empty"
		if podClaims.Len() > 0 {
			missing.Detail = "must be one of the names in pod.spec.resourceClaims: " + strings.Join(sets.List(podClaims), ", ")
		}
		errs = append(errs, missing)
	}
	return errs
}
