package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"keelson.dev/apis/validate"
)

var statusPath = field.NewPath("status")

// ValidatePodStatusUpdate checks what a kubelet or scheduler reports: containers that may not restart stay ended.
func ValidatePodStatusUpdate(p, old *corev1.Pod) field.ErrorList {
	status := &p.Status
	errs := validatePodAnnotationsUpdate(p, old)
	errs = append(errs, validateNomination(p, old)...)
	errs = append(errs, nonnegativeGeneration(status.ObservedGeneration, statusPath)...)
	for i, condition := range status.Conditions {
		at := statusPath.Child("conditions").Index(i)
		errs = append(errs, nonnegativeGeneration(condition.ObservedGeneration, at)...)
		errs = append(errs, validate.QualifiedName(string(condition.Type), at.Child("Type"))...)
	}
	errs = append(errs, validate.Immutable(status.QOSClass, old.Status.QOSClass, statusPath.Child("qosClass"))...)
	errs = append(errs, validatePodIPs(status, &old.Status)...)
	errs = append(errs, validateContainerTransitions(status, &old.Status, &old.Spec)...)
	errs = append(errs, validateContainerReports(p)...)
	errs = append(errs, validateClaimStatuses(status.ResourceClaimStatuses, &p.Spec)...)
	return append(errs, validateExtendedClaim(status.ExtendedResourceClaimStatus, &p.Spec)...)
}

// validateNomination checks the node that a scheduler keeps free for the pod; a pod that has a node is not nominated any more.
func validateNomination(p, old *corev1.Pod) field.ErrorList {
	name, path := p.Status.NominatedNodeName, statusPath.Child("nominatedNodeName")
	if name == "" || name == old.Status.NominatedNodeName {
		return nil
	}
	errs := validate.ObjectName(name, path, apivalidation.NameIsDNSSubdomain)
	if old.Spec.NodeName != "" {
		errs = append(errs, field.Forbidden(path, "may not be set on pods that are already bound to a node"))
	}
	return errs
}

func nonnegativeGeneration(generation int64, parent *field.Path) field.ErrorList {
	if generation >= 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(parent.Child("observedGeneration"), generation, "must be a non-negative integer")}
}

// validateContainerTransitions rejects containers that live again although no policy lets them. A rule that restarts all of them
// makes everything possible.
func validateContainerTransitions(now, old *corev1.PodStatus, spec *corev1.PodSpec) field.ErrorList {
	errs := validateTransitions(now.EphemeralContainerStatuses, old.EphemeralContainerStatuses, statusPath.Child("ephemeralContainerStatuses"),
		func(string, int32) bool { return false })
	if restartsAll(spec) {
		return errs
	}
	errs = append(errs, validateTransitions(now.ContainerStatuses, old.ContainerStatuses, statusPath.Child("containerStatuses"),
		func(name string, exitCode int32) bool { return mayRestart(spec, spec.Containers, name, exitCode) })...)
	return append(errs, validateTransitions(now.InitContainerStatuses, old.InitContainerStatuses, statusPath.Child("initContainerStatuses"),
		func(name string, exitCode int32) bool {
			// One that has succeeded runs again when the sandbox had to be made anew.
			return mayRestart(spec, spec.InitContainers, name, exitCode) || exitCode == 0 && spec.RestartPolicy == corev1.RestartPolicyOnFailure
		})...)
}

func validateTransitions(now, old []corev1.ContainerStatus, path *field.Path, mayRestart func(name string, exitCode int32) bool) field.ErrorList {
	var errs field.ErrorList
	for i := range old {
		ended := old[i].State.Terminated
		j := slices.IndexFunc(now, func(s corev1.ContainerStatus) bool { return s.Name == old[i].Name })
		if ended != nil && j >= 0 && now[j].State.Terminated == nil && !mayRestart(old[i].Name, ended.ExitCode) {
			errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
		}
	}
	return errs
}

// mayRestart tells whether one of the containers, by its rules, its policy or the pod's, runs again after it ended.
func mayRestart(spec *corev1.PodSpec, containers []corev1.Container, name string, exitCode int32) bool {
	i := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == name })
	if i < 0 {
		return false
	}
	policy := string(spec.RestartPolicy)
	if own := containers[i].RestartPolicy; own != nil {
		policy = string(*own)
		for _, rule := range containers[i].RestartPolicyRules {
			in := rule.ExitCodes != nil && rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn
			if rule.ExitCodes != nil && slices.Contains(rule.ExitCodes.Values, exitCode) == in {
				return true
			}
		}
	}
	return policy == string(corev1.RestartPolicyAlways) || policy == string(corev1.RestartPolicyOnFailure) && exitCode != 0
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

func validatePodIPs(status, old *corev1.PodStatus) field.ErrorList {
	ips := func(list []corev1.PodIP) []string {
		out := make([]string, len(list))
		for i := range list {
			out[i] = list[i].IP
		}
		return out
	}
	hosts := func(list []corev1.HostIP) []string {
		out := make([]string, len(list))
		for i := range list {
			out[i] = list[i].IP
		}
		return out
	}
	path := statusPath.Child("hostIPs")
	errs := validateIPs(ips(status.PodIPs), ips(old.PodIPs), status.PodIPs, statusPath.Child("podIPs"))
	if host := hosts(status.HostIPs); len(host) > 0 && status.HostIP != host[0] {
		errs = append(errs, field.Invalid(path.Index(0).Child("ip"), host[0], "must be equal to `hostIP`"))
	}
	return append(errs, validateIPs(hosts(status.HostIPs), hosts(old.HostIPs), status.HostIPs, path)...)
}

// validateIPs demands at most one address of each family; list is the field as it is shown.
func validateIPs(ips, old []string, list any, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Index(i), ip, true, old)...)
	}
	if len(ips) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackIPStrings(ips)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("failed to check for dual stack with error:%w", err)))
	}
	if !dual || len(ips) > 2 {
		errs = append(errs, field.Invalid(path, list, "may specify no more than one IP for each IP family"))
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
			errs = append(errs, field.Duplicate(at.Child("name"), status.Name))
		}
		seen.Insert(status.Name)
		if status.ResourceClaimName != nil {
			errs = append(errs, validate.ObjectName(*status.ResourceClaimName, at.Child("resourceClaimName"), apivalidation.NameIsDNSSubdomain)...)
		}
	}
	return errs
}
