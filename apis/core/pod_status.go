package core

import (
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"keelson.dev/apis/validate"
)

var statusPath = field.NewPath("status")

// ValidatePodStatusUpdate checks what a kubelet or scheduler reports: containers that may not restart stay ended.
func ValidatePodStatusUpdate(p, old *corev1.Pod) field.ErrorList {
	status := &p.Status
	errs := validatePodAnnotationsUpdate(p, old)
	if status.NominatedNodeName != "" {
		errs = append(errs, validate.ObjectName(status.NominatedNodeName, statusPath.Child("nominatedNodeName"), apivalidation.NameIsDNSSubdomain)...)
	}
	errs = append(errs, validate.Nonnegative(status.ObservedGeneration, statusPath.Child("observedGeneration"))...)
	for i, condition := range status.Conditions {
		at := statusPath.Child("conditions").Index(i)
		errs = append(errs, validate.QualifiedName(string(condition.Type), at.Child("type"))...)
		errs = append(errs, validate.Nonnegative(condition.ObservedGeneration, at.Child("observedGeneration"))...)
	}
	errs = append(errs, validatePodIPs(status)...)
	errs = append(errs, validateContainerTransitions(status.ContainerStatuses, old.Status.ContainerStatuses, &old.Spec,
		statusPath.Child("containerStatuses"), false)...)
	errs = append(errs, validateContainerTransitions(status.InitContainerStatuses, old.Status.InitContainerStatuses, &old.Spec,
		statusPath.Child("initContainerStatuses"), true)...)
	return append(errs, validateClaimStatuses(status.ResourceClaimStatuses, &p.Spec)...)
}

// validateContainerTransitions rejects a container that lives again although its policy lets it end only once.
func validateContainerTransitions(statuses, old []corev1.ContainerStatus, spec *corev1.PodSpec, path *field.Path, init bool) field.ErrorList {
	var errs field.ErrorList
	if !init && spec.RestartPolicy == corev1.RestartPolicyAlways {
		return nil
	}
	now := map[string]int{}
	for i := range statuses {
		now[statuses[i].Name] = i
	}
	for i := range old {
		ended := old[i].State.Terminated
		j, ok := now[old[i].Name]
		if ended == nil || !ok || statuses[j].State.Terminated != nil || mayRestart(spec, old[i].Name, ended.ExitCode, init) {
			continue
		}
		errs = append(errs, field.Forbidden(path.Index(j).Child("state"), "may not be transitioned to non-terminated state"))
	}
	return errs
}

func mayRestart(spec *corev1.PodSpec, name string, exitCode int32, init bool) bool {
	list := spec.Containers
	if init {
		list = spec.InitContainers
	}
	for i := range list {
		c := &list[i]
		if c.Name != name {
			continue
		}
		// Rules and a policy of its own make a container's fate its own; so do rules of others that restart all of them.
		if len(c.RestartPolicyRules) > 0 || IsSidecar(c) {
			return true
		}
		if c.RestartPolicy != nil && *c.RestartPolicy != corev1.ContainerRestartPolicyOnFailure {
			return false
		}
		if c.RestartPolicy != nil {
			return exitCode != 0
		}
	}
	if restartsAll(spec) {
		return true
	}
	// An init container that has succeeded runs again when the sandbox had to be made anew.
	if init {
		return spec.RestartPolicy != corev1.RestartPolicyNever
	}
	return spec.RestartPolicy != corev1.RestartPolicyNever && exitCode != 0
}

func restartsAll(spec *corev1.PodSpec) bool {
	found := false
	visitContainers(spec, func(_ string, _ int, c *corev1.Container) {
		for _, rule := range c.RestartPolicyRules {
			found = found || rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		}
	})
	return found
}

func validatePodIPs(status *corev1.PodStatus) field.ErrorList {
	var errs field.ErrorList
	pod, host := make([]string, 0, len(status.PodIPs)), make([]string, 0, len(status.HostIPs))
	for _, ip := range status.PodIPs {
		pod = append(pod, ip.IP)
	}
	for _, ip := range status.HostIPs {
		host = append(host, ip.IP)
	}
	errs = append(errs, validateIPs(pod, statusPath.Child("podIPs"))...)
	if len(host) > 0 && status.HostIP != host[0] {
		errs = append(errs, field.Invalid(statusPath.Child("hostIPs").Index(0).Child("ip"), host[0], "must be equal to `hostIP`"))
	}
	return append(errs, validateIPs(host, statusPath.Child("hostIPs"))...)
}

// validateIPs demands at most one address of each family.
func validateIPs(ips []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, ip := range ips {
		errs = append(errs, validate.IP(ip, path.Index(i))...)
		if seen.Has(ip) {
			errs = append(errs, field.Duplicate(path.Index(i), ip))
		}
		seen.Insert(ip)
	}
	if len(ips) < 2 || len(errs) > 0 {
		return errs
	}
	if dual, err := netutils.IsDualStackIPStrings(ips); len(ips) > 2 || err != nil || !dual {
		errs = append(errs, field.Invalid(path, ips, "may specify no more than one IP for each IP family"))
	}
	return errs
}

func validateClaimStatuses(statuses []corev1.PodResourceClaimStatus, spec *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	known, seen := sets.New[string](), sets.New[string]()
	for _, claim := range spec.ResourceClaims {
		known.Insert(claim.Name)
	}
	for i, status := range statuses {
		at := statusPath.Child("resourceClaimStatuses").Index(i)
		if !known.Has(status.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), status.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if seen.Has(status.Name) {
			errs = append(errs, field.Duplicate(at, status.Name))
		}
		seen.Insert(status.Name)
		if status.ResourceClaimName != nil {
			errs = append(errs, validate.ObjectName(*status.ResourceClaimName, at.Child("name"), apivalidation.NameIsDNSSubdomain)...)
		}
	}
	return errs
}
