package services

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilsnet "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

// planFamilies fills in ipFamilies and ipFamilyPolicy from what the client said and what the cluster has. available is in order
// of preference; old is nil on create.
func planFamilies(spec, old *corev1.ServiceSpec, available []corev1.IPFamily) field.ErrorList {
	if !hasAddress(spec) {
		return nil
	}
	if old != nil && !hasAddress(old) {
		old = nil // nothing of an ExternalName service binds the choice
	}
	if errs := checkFamilies(spec, available); len(errs) > 0 {
		return errs
	}
	headlessWithout := isHeadless(spec) && len(spec.Selector) == 0
	if spec.IPFamilyPolicy == nil && old != nil {
		spec.IPFamilyPolicy = old.IPFamilyPolicy
	}
	if spec.IPFamilyPolicy == nil {
		spec.IPFamilyPolicy = new(defaultPolicy(spec, headlessWithout))
	}
	inferFromAddresses(spec)
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{available[0]}
	}
	wantsTwo := *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack
	switch {
	case !wantsTwo || len(spec.IPFamilies) == 2:
		return nil
	case len(available) == 2 || headlessWithout:
		// A headless service without selector names endpoints that somebody else maintains: any family may come.
		spec.IPFamilies = append(spec.IPFamilies, other(spec.IPFamilies[0]))
	}
	return nil
}

func defaultPolicy(spec *corev1.ServiceSpec, headlessWithout bool) corev1.IPFamilyPolicy {
	if headlessWithout && len(spec.IPFamilies) == 0 {
		return corev1.IPFamilyPolicyRequireDualStack
	}
	return corev1.IPFamilyPolicySingleStack
}

func checkFamilies(spec *corev1.ServiceSpec, available []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	policy := ptr.Deref(spec.IPFamilyPolicy, "")
	headlessWithout := isHeadless(spec) && len(spec.Selector) == 0
	if !headlessWithout {
		if policy == corev1.IPFamilyPolicyRequireDualStack && len(available) < 2 {
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), policy, "this cluster is not configured for dual-stack services"))
		}
		for i, family := range spec.IPFamilies {
			if !slices.Contains(available, family) {
				errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(i), family, "not configured on this cluster"))
			}
		}
	}
	twice := len(spec.IPFamilies) == 2 || len(spec.ClusterIPs) == 2
	if twice && (policy == "" || policy == corev1.IPFamilyPolicySingleStack) {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy,
			"must be RequireDualStack or PreferDualStack when more than one IP family or cluster IP is specified"))
	}
	return errs
}

// inferFromAddresses adds the families of the cluster IPs that the client chose.
func inferFromAddresses(spec *corev1.ServiceSpec) {
	if isHeadless(spec) {
		return
	}
	for i := len(spec.IPFamilies); i < len(spec.ClusterIPs); i++ {
		family := corev1.IPv4Protocol
		if utilsnet.IsIPv6String(spec.ClusterIPs[i]) {
			family = corev1.IPv6Protocol
		}
		spec.IPFamilies = append(spec.IPFamilies, family)
	}
}

func other(family corev1.IPFamily) corev1.IPFamily {
	if family == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}
