package networking

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// ingress routes HTTP from outside to services.
var ingress = resource.Definition[*networkingv1.Ingress]{
	GroupVersion: networkingv1.SchemeGroupVersion, Kind: "Ingress", Plural: "ingresses", ShortNames: []string{"ing"},
	KeyPrefix: "ingress", Namespaced: true, HasStatus: true, AllowUnconditionalUpdate: true,
	Validate: func(ing *networkingv1.Ingress) field.ErrorList {
		return append(validateClassAnnotation(ing), validateIngressSpec(&ing.Spec, field.NewPath("spec"))...)
	},
	ValidateUpdate: func(ing, _ *networkingv1.Ingress) field.ErrorList {
		return validateIngressSpec(&ing.Spec, field.NewPath("spec"))
	},
	ValidateStatus: validateIngressStatus,
	Warn: func(ing, old *networkingv1.Ingress) []string {
		if _, annotated := ing.Annotations[classAnnotation]; annotated && old == nil {
			return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
		}
		return nil
	},
	Columns: resource.Columns([]resource.Column[*networkingv1.Ingress]{
		{Name: "Class", Description: "The name of the IngressClass resource that should be used for additional configuration", Get: func(ing *networkingv1.Ingress) any {
			return ptr.Deref(ing.Spec.IngressClassName, "<none>")
		}},
		{Name: "Hosts", Description: "Hosts that incoming requests are matched against before the ingress rule", Get: func(ing *networkingv1.Ingress) any {
			return printHosts(ing.Spec.Rules)
		}},
		{Name: "Address", Description: "Address is a list containing ingress points for the load-balancer", Get: func(ing *networkingv1.Ingress) any {
			return printAddresses(ing.Status.LoadBalancer.Ingress)
		}},
		{Name: "Ports", Description: "Ports of TLS configurations that open", Get: func(ing *networkingv1.Ingress) any {
			if len(ing.Spec.TLS) > 0 {
				return "80, 443"
			}
			return "80"
		}},
	}...),
}

func printHosts(rules []networkingv1.IngressRule) string {
	const shown = 3
	var hosts []string
	for i, rule := range rules {
		if len(hosts) == shown {
			return fmt.Sprintf("%s + %d more...", strings.Join(hosts, ","), len(rules)-i)
		}
		if rule.Host != "" {
			hosts = append(hosts, rule.Host)
		}
	}
	if len(hosts) == 0 {
		return "*"
	}
	return strings.Join(hosts, ",")
}

func printAddresses(points []networkingv1.IngressLoadBalancerIngress) string {
	addresses := sets.New[string]()
	for _, point := range points {
		if point.IP != "" {
			addresses.Insert(point.IP)
		} else if point.Hostname != "" {
			addresses.Insert(point.Hostname)
		}
	}
	return strings.Join(sets.List(addresses), ",")
}

const classAnnotation = "kubernetes.io/ingress.class"

func validateClassAnnotation(ing *networkingv1.Ingress) field.ErrorList {
	value, found := ing.Annotations[classAnnotation]
	if !found || ing.Spec.IngressClassName == nil || value == *ing.Spec.IngressClassName {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("annotations").Child(classAnnotation), value,
		"must match `ingressClassName` when both are specified")}
}

func validateIngressSpec(spec *networkingv1.IngressSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(spec.Rules) == 0 && spec.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if spec.DefaultBackend != nil {
		errs = append(errs, validateBackend(spec.DefaultBackend, path.Child("defaultBackend"))...)
	}
	for i := range spec.Rules {
		errs = append(errs, validateRule(&spec.Rules[i], path.Child("rules").Index(i))...)
	}
	for i, tls := range spec.TLS {
		tlsPath := path.Child("tls").Index(i)
		for j, host := range tls.Hosts {
			errs = append(errs, validateHost(host, tlsPath.Child("hosts").Index(j))...)
		}
		if tls.SecretName != "" {
			errs = append(errs, validate.ObjectName(tls.SecretName, tlsPath.Child("secretName"), apivalidation.NameIsDNSSubdomain)...)
		}
	}
	if spec.IngressClassName != nil {
		errs = append(errs, validate.ObjectName(*spec.IngressClassName, path.Child("ingressClassName"), apivalidation.NameIsDNSSubdomain)...)
	}
	return errs
}

func validateHost(host string, path *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return validate.Messages(path, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return validate.Messages(path, host, validation.IsDNS1123Subdomain(host))
}

func validateRule(rule *networkingv1.IngressRule, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if rule.Host != "" {
		if netutils.ParseIPSloppy(rule.Host) != nil {
			errs = append(errs, field.Invalid(path.Child("host"), rule.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, validateHost(rule.Host, path.Child("host"))...)
	}
	if rule.HTTP == nil {
		return errs
	}
	paths := path.Child("http", "paths")
	if len(rule.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(paths, ""))
	}
	for i := range rule.HTTP.Paths {
		errs = append(errs, validateHTTPPath(&rule.HTTP.Paths[i], paths.Index(i))...)
	}
	return errs
}

func validateHTTPPath(p *networkingv1.HTTPIngressPath, path *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(path.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	invalid := func(message string) { errs = append(errs, field.Invalid(path.Child("path"), p.Path, message)) }
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			invalid("must be an absolute path")
		}
		for _, sequence := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, sequence) {
				invalid(fmt.Sprintf("must not contain '%s'", sequence))
			}
		}
		for _, suffix := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, suffix) {
				invalid(fmt.Sprintf("cannot end with '%s'", suffix))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			invalid("must be an absolute path")
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("pathType"), *p.PathType, []networkingv1.PathType{
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix,
		}))
	}
	return append(errs, validateBackend(&p.Backend, path.Child("backend"))...)
}

func validateBackend(backend *networkingv1.IngressBackend, path *field.Path) field.ErrorList {
	switch {
	case backend.Resource != nil && backend.Service != nil:
		return field.ErrorList{field.Invalid(path, "", "cannot set both resource and service backends")}
	case backend.Resource != nil:
		return validateResourceBackend(backend.Resource, path.Child("resource"))
	case backend.Service == nil:
		return field.ErrorList{field.Invalid(path, "", "resource or service backend is required")}
	}
	var errs field.ErrorList
	service, servicePath := backend.Service, path.Child("service")
	if service.Name == "" {
		errs = append(errs, field.Required(servicePath.Child("name"), ""))
	} else {
		errs = append(errs, validate.ObjectName(service.Name, servicePath.Child("name"), apivalidation.NameIsDNSLabel)...)
	}
	port, portPath := service.Port, servicePath.Child("port")
	switch {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case port.Name != "":
		errs = append(errs, validate.Messages(portPath.Child("name"), port.Name, validation.IsValidPortName(port.Name))...)
	case port.Number != 0:
		errs = append(errs, validate.Port(port.Number, portPath.Child("number"))...)
	default:
		errs = append(errs, field.Required(path, "port name or number is required"))
	}
	return errs
}

func validateResourceBackend(ref *corev1.TypedLocalObjectReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if ref.APIGroup != nil {
		errs = append(errs, validate.DNSSubdomain(*ref.APIGroup, path.Child("apiGroup"))...)
	}
	errs = append(errs, requireSegment(ref.Kind, path.Child("kind"))...)
	return append(errs, requireSegment(ref.Name, path.Child("name"))...)
}

func validateIngressStatus(ing, _ *networkingv1.Ingress) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "loadBalancer", "ingress")
	for i, point := range ing.Status.LoadBalancer.Ingress {
		if point.IP != "" {
			errs = append(errs, validate.IP(point.IP, path.Index(i).Child("ip"))...)
		}
		if point.Hostname == "" {
			continue
		}
		hostPath := path.Index(i).Child("hostname")
		errs = append(errs, validate.Messages(hostPath, point.Hostname, validation.IsDNS1123Subdomain(point.Hostname))...)
		if netutils.ParseIPSloppy(point.Hostname) != nil {
			errs = append(errs, field.Invalid(hostPath, point.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}
