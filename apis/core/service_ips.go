package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/validate"
)

// ValidateServiceAddresses checks what the allocation of addresses relies on. What old has already, nil on create, is not judged.
func ValidateServiceAddresses(s *corev1.Service, old *corev1.ServiceSpec) field.ErrorList {
	return validateClusterIPs(&s.Spec, old, field.NewPath("spec"))
}

// validateClusterIPs checks clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy against each other. ExternalName services may
// have none of them, which is checked with their type.
func validateClusterIPs(spec, old *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	ipsPath, familiesPath := path.Child("clusterIPs"), path.Child("ipFamilies")
	var errs field.ErrorList
	switch {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		errs = append(errs, field.Invalid(ipsPath, spec.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		errs = append(errs, field.Required(ipsPath, ""))
	case spec.ClusterIP != "" && spec.ClusterIPs[0] != spec.ClusterIP:
		errs = append(errs, field.Invalid(ipsPath, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	seen := sets.New[corev1.IPFamily]()
	for i, family := range spec.IPFamilies {
		errs = append(errs, validate.OneOf(family, familiesPath.Index(i), corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen.Has(family) {
			errs = append(errs, field.Duplicate(familiesPath.Index(i), family))
		}
		seen.Insert(family)
	}
	errs = append(errs, validate.OptionalOneOf(spec.IPFamilyPolicy, path.Child("ipFamilyPolicy"),
		corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	return append(errs, validateIPValues(spec, old, ipsPath)...)
}

func validateIPValues(spec, old *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	var former []string
	if old != nil {
		former = old.ClusterIPs
	}
	for i, ip := range spec.ClusterIPs {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(spec.ClusterIPs) > 1 {
				errs = append(errs, field.Invalid(path, spec.ClusterIPs, "'None' must be the first and only value"))
			}
			continue
		}
		errs = append(errs, validation.IsValidIPForLegacyField(path.Index(i), ip, true, former)...)
	}
	malformed := len(errs) > 0
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(path, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	if malformed {
		return errs // what follows would only repeat it in other words
	}
	if len(spec.ClusterIPs) > 1 {
		if dual, err := netutils.IsDualStackIPStrings(spec.ClusterIPs); err != nil || !dual {
			errs = append(errs, field.Invalid(path, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
		}
	}
	if isHeadless(spec) {
		return errs
	}
	for i := range min(len(spec.ClusterIPs), len(spec.IPFamilies)) {
		ip, family := spec.ClusterIPs[i], spec.IPFamilies[i]
		if isIPv6 := netutils.IsIPv6String(ip); isIPv6 && family == corev1.IPv4Protocol || !isIPv6 && family == corev1.IPv6Protocol {
			errs = append(errs, field.Invalid(path.Index(i), ip,
				fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", family, i)))
		}
	}
	return errs
}

// validateServiceUpdate lets a service gain or lose its second address, but never change the first one.
func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	external := s.Spec.Type == corev1.ServiceTypeExternalName || old.Spec.Type == corev1.ServiceTypeExternalName
	if !external && (!isHeadless(&s.Spec) || !isHeadless(&old.Spec)) {
		errs = append(errs, validateOrdered(s.Spec.ClusterIPs, old.Spec.ClusterIPs, s, path.Child("clusterIPs"), "clusterIP")...)
	}
	if !external && !isHeadless(&s.Spec) && !isHeadless(&old.Spec) && (len(s.Spec.IPFamilies) > 0 || len(s.Spec.ClusterIPs) == 0) {
		errs = append(errs, validateOrdered(s.Spec.IPFamilies, old.Spec.IPFamilies, s, path.Child("ipFamilies"), "ipFamily")...)
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		!ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set"))
	}
	if hasHealthCheckPort(&s.Spec) && hasHealthCheckPort(&old.Spec) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(path.Child("healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, validateServiceSpec(s, &old.Spec)...)
}

// validateOrdered compares a list of which the first entry is primary and the second may come and go.
func validateOrdered[V comparable](values, old []V, s *corev1.Service, path *field.Path, what string) field.ErrorList {
	var errs field.ErrorList
	if len(values) == 0 && len(old) > 0 {
		return field.ErrorList{field.Invalid(path.Index(0), values, fmt.Sprintf("primary %s can not be unset", what))}
	}
	compared := 1 // when the length changes, only the primary has to stay
	if len(values) == len(old) {
		compared = len(values)
	}
	for i := range min(compared, len(values), len(old)) {
		if values[i] != old[i] {
			errs = append(errs, field.Invalid(path.Index(i), values, "may not change once set"))
		}
	}
	if len(values) == 1 && len(old) > 1 && ptr.Deref(s.Spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(path.Root().Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy,
			fmt.Sprintf("must be set to 'SingleStack' when releasing the secondary %s", what)))
	}
	return errs
}
