package networking

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// serviceCIDR is a block from which services get their addresses.
var serviceCIDR = resource.Definition[*networkingv1.ServiceCIDR]{
	GroupVersion: networkingv1.SchemeGroupVersion, Kind: "ServiceCIDR", NameOnce: true, Plural: "servicecidrs",
	HasStatus: true, StatusFixes: []string{"metadata"}, AllowUnconditionalUpdate: true, GenerationOf: resource.NoGeneration[*networkingv1.ServiceCIDR],
	Validate: validateServiceCIDR,
	ValidateUpdate: func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
		if len(old.Spec.CIDRs) == 1 && len(c.Spec.CIDRs) == 2 && c.Spec.CIDRs[0] == old.Spec.CIDRs[0] {
			return validateServiceCIDR(c) // a cluster becomes dual-stack
		}
		path := field.NewPath("spec", "cidrs")
		if len(c.Spec.CIDRs) != len(old.Spec.CIDRs) {
			return validate.Immutable(c.Spec.CIDRs, old.Spec.CIDRs, path)
		}
		var errs field.ErrorList
		for i, cidr := range c.Spec.CIDRs {
			errs = append(errs, validate.Immutable(cidr, old.Spec.CIDRs[i], path.Index(i))...)
		}
		return errs
	},
	Columns: resource.Columns(resource.Column[*networkingv1.ServiceCIDR]{
		Name: "CIDRs", Description: networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"],
		Get: func(c *networkingv1.ServiceCIDR) any { return strings.Join(c.Spec.CIDRs, ",") },
	}),
}

func validateServiceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	cidrs := c.Spec.CIDRs
	var errs field.ErrorList
	switch {
	case len(cidrs) == 0:
		return field.ErrorList{field.Required(path, "at least one CIDR required")}
	case len(cidrs) > 2:
		return append(errs, field.Invalid(path, c.Spec, "may only hold up to 2 values"))
	}
	for i, cidr := range cidrs {
		errs = append(errs, validate.StrictCIDR(cidr, path.Index(i))...)
	}
	if dual, err := netutils.IsDualStackCIDRStrings(cidrs); len(cidrs) == 2 && len(errs) == 0 && (err != nil || !dual) {
		errs = append(errs, field.Invalid(path, c.Spec, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96"))
	}
	return errs
}
