package core

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
)

// validateContainerReports checks what a kubelet tells of containers: who they run as (KEP-3619) and how the devices are that they
// were given (KEP-4680).
func validateContainerReports(p *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	path := statusPath.Child("containerStatuses")
	for i := range p.Status.ContainerStatuses {
		s, at := &p.Status.ContainerStatuses[i], path.Index(i)
		errs = append(errs, validateReportedUser(s.User, p.Spec.OS, at.Child("user", "linux"))...)
		errs = append(errs, validateDevices(s, p.Spec.Containers, p.Status.ExtendedResourceClaimStatus, at.Child("allocatedResourcesStatus"))...)
	}
	path = statusPath.Child("initContainerStatuses")
	for i := range p.Status.InitContainerStatuses {
		s, at := &p.Status.InitContainerStatuses[i], path.Index(i)
		errs = append(errs, validateReportedUser(s.User, p.Spec.OS, at.Child("user", "linux"))...)
		errs = append(errs, validateDevices(s, p.Spec.InitContainers, p.Status.ExtendedResourceClaimStatus, at.Child("allocatedResourcesStatus"))...)
	}
	path = statusPath.Child("ephemeralContainerStatuses")
	for i := range p.Status.EphemeralContainerStatuses {
		s, at := &p.Status.EphemeralContainerStatuses[i], path.Index(i)
		errs = append(errs, validateReportedUser(s.User, p.Spec.OS, at.Child("user", "linux"))...)
		if len(s.AllocatedResourcesStatus) > 0 {
			errs = append(errs, field.Forbidden(at.Child("allocatedResourcesStatus"), "must not be specified in container status"))
		}
	}
	return errs
}

func validateReportedUser(user *corev1.ContainerUser, os *corev1.PodOS, path *field.Path) field.ErrorList {
	if user == nil || user.Linux == nil {
		return nil
	}
	if os != nil && os.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(path, "cannot be set for a windows pod")}
	}
	if os != nil && os.Name != corev1.Linux {
		return nil
	}
	var errs field.ErrorList
	if uid := user.Linux.UID; uid < 0 || uid > math.MaxUint32 {
		errs = append(errs, field.Invalid(path.Child("uid"), uid, fmt.Sprintf("must be between 0 and %d, inclusive", int64(math.MaxUint32))))
	}
	errs = append(errs, groupID(&user.Linux.GID, path.Child("gid"))...)
	for i := range user.Linux.SupplementalGroups {
		errs = append(errs, groupID(&user.Linux.SupplementalGroups[i], path.Child("supplementalGroups").Index(i))...)
	}
	return errs
}

// validateDevices demands that what is reported was asked for. A container that the spec does not have is not judged.
func validateDevices(s *corev1.ContainerStatus, containers []corev1.Container, extended *corev1.PodExtendedResourceClaimStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, resource := range s.AllocatedResourcesStatus {
		at := path.Index(i)
		for j := range containers {
			if containers[j].Name != s.Name {
				continue
			}
			if message := notAskedFor(resource.Name, &containers[j], extended); message != "" {
				errs = append(errs, field.Invalid(at.Child("name"), resource.Name, message))
			}
			break
		}
		seen := sets.New[corev1.ResourceID]()
		for j, device := range resource.Resources {
			at := at.Child("resources").Index(j)
			errs = append(errs, validate.OneOf(device.Health, at.Child("health"),
				corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)...)
			if device.Message != nil && *device.Message == "" {
				errs = append(errs, field.Required(at.Child("message"), "must be non-empty if specified"))
			}
			if device.Message != nil && len(*device.Message) > corev1.ResourceHealthMessageMaxLength {
				errs = append(errs, field.TooLong(at.Child("message"), *device.Message, corev1.ResourceHealthMessageMaxLength))
			}
			if seen.Has(device.ResourceID) {
				errs = append(errs, field.Duplicate(at.Child("resourceID"), device.ResourceID))
			}
			seen.Insert(device.ResourceID)
		}
	}
	return errs
}

// notAskedFor is empty if the container requests the resource, or the claim and request that "claim:name/request" names: its own, or
// the claim that was made for its extended resources (KEP-5004).
func notAskedFor(name corev1.ResourceName, c *corev1.Container, extended *corev1.PodExtendedResourceClaimStatus) string {
	reference, isClaim := strings.CutPrefix(string(name), "claim:")
	if !isClaim {
		if _, ok := c.Resources.Requests[name]; ok {
			return ""
		}
		return "must match one of the container's resource requests"
	}
	for _, claim := range c.Resources.Claims {
		if reference == strings.TrimSuffix(claim.Name+"/"+claim.Request, "/") {
			return ""
		}
	}
	if extended != nil {
		for _, mapping := range extended.RequestMappings {
			quantity := c.Resources.Requests[corev1.ResourceName(mapping.ResourceName)]
			if mapping.ContainerName == c.Name && reference == extended.ResourceClaimName+"/"+mapping.RequestName && !quantity.IsZero() {
				return ""
			}
		}
	}
	return "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty"
}

// validateExtendedClaim checks which requests of the claim that the scheduler made serve which extended resources.
func validateExtendedClaim(status *corev1.PodExtendedResourceClaimStatus, spec *corev1.PodSpec) field.ErrorList {
	if status == nil {
		return nil
	}
	path := statusPath.Child("extendedResourceClaimStatus")
	containers := map[string]*corev1.Container{}
	visitContainers(spec, func(list string, _ int, c *corev1.Container) {
		if list != "ephemeralContainers" {
			containers[c.Name] = c
		}
	})
	var errs field.ErrorList
	mappings := path.Child("requestMappings")
	if len(status.RequestMappings) == 0 {
		errs = append(errs, field.Required(mappings, "at least one request mapping is required"))
	}
	seen := sets.New[corev1.ContainerExtendedResourceRequest]()
	for i, mapping := range status.RequestMappings {
		at := mappings.Index(i)
		if c := containers[mapping.ContainerName]; c == nil {
			errs = append(errs, field.Invalid(at.Child("containerName"), mapping.ContainerName,
				"must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if _, ok := c.Resources.Requests[corev1.ResourceName(mapping.ResourceName)]; !ok {
			errs = append(errs, field.Invalid(at.Child("resourceName"), mapping.ResourceName,
				"must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		errs = append(errs, validate.DNSLabel(mapping.RequestName, path.Child("requestName"))...)
		if seen.Has(mapping) {
			errs = append(errs, field.Duplicate(at.Child("containerName"), mapping.ContainerName),
				field.Duplicate(at.Child("resourceName"), mapping.ResourceName), field.Duplicate(at.Child("requestName"), mapping.RequestName))
		}
		seen.Insert(mapping)
	}
	if status.ResourceClaimName == "" {
		return append(errs, field.Required(path.Child("resourceClaimName"), ""))
	}
	return append(errs, validate.ObjectName(status.ResourceClaimName, path.Child("resourceClaimName"), apivalidation.NameIsDNSSubdomain)...)
}
