package networking

import (
	"net"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// networkPolicy says who may talk to some pods, and to whom they may.
var networkPolicy = resource.Definition[*networkingv1.NetworkPolicy]{
	GroupVersion: networkingv1.SchemeGroupVersion, Kind: "NetworkPolicy", NameOnce: true, Plural: "networkpolicies", ShortNames: []string{"netpol"},
	Namespaced: true, AllowUnconditionalUpdate: true,
	GenerationOf: func(p *networkingv1.NetworkPolicy) any { return &p.Spec },
	Default:      defaultNetworkPolicy,
	Validate:     validateNetworkPolicy,
	Warn:         warnNetworkPolicy,
	Columns: resource.Columns(resource.Column[*networkingv1.NetworkPolicy]{
		Name: "Pod-Selector", Description: networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"],
		Get: func(p *networkingv1.NetworkPolicy) any { return metav1.FormatLabelSelector(&p.Spec.PodSelector) },
	}),
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	for i := range p.Spec.Ingress {
		defaultPolicyPorts(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		defaultPolicyPorts(p.Spec.Egress[i].Ports)
	}
}

func defaultPolicyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		resource.SetDefaultPtr(&ports[i].Protocol, corev1.ProtocolTCP)
	}
}

func validateNetworkPolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validate.LabelSelector(&p.Spec.PodSelector, spec.Child("podSelector"))
	for i, rule := range p.Spec.Ingress {
		path := spec.Child("ingress").Index(i)
		errs = append(errs, validatePolicyRule(rule.Ports, rule.From, path, "from")...)
	}
	for i, rule := range p.Spec.Egress {
		path := spec.Child("egress").Index(i)
		errs = append(errs, validatePolicyRule(rule.Ports, rule.To, path, "to")...)
	}
	types := spec.Child("policyTypes")
	if len(p.Spec.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, &p.Spec.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, kind := range p.Spec.PolicyTypes {
		errs = append(errs, validate.OneOf(kind, types.Index(i), networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func validatePolicyRule(ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, path *field.Path, peersName string) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		errs = append(errs, validatePolicyPort(&ports[i], path.Child("ports").Index(i))...)
	}
	for i := range peers {
		errs = append(errs, validatePeer(&peers[i], path.Child(peersName).Index(i))...)
	}
	return errs
}

func validatePolicyPort(port *networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	errs := validate.OptionalOneOf(port.Protocol, path.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	endPath := path.Child("endPort")
	if port.Port == nil {
		if port.EndPort != nil {
			errs = append(errs, field.Invalid(endPath, *port.EndPort, "may not be specified when `port` is not specified"))
		}
		return errs
	}
	errs = append(errs, validate.PortOrName(*port.Port, path.Child("port"))...)
	if port.EndPort == nil {
		return errs
	}
	if port.Port.Type == intstr.String {
		return append(errs, field.Invalid(endPath, *port.EndPort, "may not be specified when `port` is non-numeric"))
	}
	if *port.EndPort < port.Port.IntVal {
		errs = append(errs, field.Invalid(endPath, *port.EndPort, "must be greater than or equal to `port`"))
	}
	return append(errs, validate.Port(*port.EndPort, endPath)...)
}

func validatePeer(peer *networkingv1.NetworkPolicyPeer, path *field.Path) field.ErrorList {
	selectors := peer.PodSelector != nil || peer.NamespaceSelector != nil
	errs := validate.LabelSelector(peer.PodSelector, path.Child("podSelector"))
	errs = append(errs, validate.LabelSelector(peer.NamespaceSelector, path.Child("namespaceSelector"))...)
	switch {
	case peer.IPBlock == nil && !selectors:
		return append(errs, field.Required(path, "must specify a peer"))
	case peer.IPBlock == nil:
		return errs
	case selectors:
		errs = append(errs, field.Forbidden(path, "may not specify both ipBlock and another peer"))
	}
	return append(errs, validateIPBlock(peer.IPBlock, path.Child("ipBlock"))...)
}

func validateIPBlock(block *networkingv1.IPBlock, path *field.Path) field.ErrorList {
	if block.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "")}
	}
	errs := validate.CIDR(block.CIDR, path.Child("cidr"))
	if len(errs) > 0 {
		return errs
	}
	_, outer, err := netutils.ParseCIDRSloppy(block.CIDR)
	if err != nil {
		return field.ErrorList{field.Invalid(path.Child("cidr"), block.CIDR, err.Error())}
	}
	for i, except := range block.Except {
		exceptPath := path.Child("except").Index(i)
		exceptErrs := validate.CIDR(except, exceptPath)
		errs = append(errs, exceptErrs...)
		if _, inner, err := netutils.ParseCIDRSloppy(except); len(exceptErrs) == 0 && (err != nil || !strictSubset(inner, outer)) {
			errs = append(errs, field.Invalid(exceptPath, except, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

func strictSubset(inner, outer *net.IPNet) bool {
	innerBits, _ := inner.Mask.Size()
	outerBits, _ := outer.Mask.Size()
	return outer.Contains(inner.IP) && innerBits > outerBits
}

// warnNetworkPolicy is for addresses that other software might read differently.
func warnNetworkPolicy(p, _ *networkingv1.NetworkPolicy) []string {
	var warnings []string
	check := func(peers []networkingv1.NetworkPolicyPeer, path *field.Path) {
		for i, peer := range peers {
			if peer.IPBlock == nil {
				continue
			}
			block := path.Index(i).Child("ipBlock")
			warnings = append(warnings, validate.WarnCIDR(peer.IPBlock.CIDR, block.Child("cidr"))...)
			for j, except := range peer.IPBlock.Except {
				warnings = append(warnings, validate.WarnCIDR(except, block.Child("except").Index(j))...)
			}
		}
	}
	spec := field.NewPath("spec")
	for i, rule := range p.Spec.Ingress {
		check(rule.From, spec.Child("ingress").Index(i).Child("from"))
	}
	for i, rule := range p.Spec.Egress {
		check(rule.To, spec.Child("egress").Index(i).Child("to"))
	}
	return warnings
}
