package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// ingressClass names a controller of ingresses.
var ingressClass = resource.Definition[*networkingv1.IngressClass]{
	GroupVersion: networkingv1.SchemeGroupVersion, Kind: "IngressClass", Plural: "ingressclasses",
	AllowUnconditionalUpdate: true,
	GenerationOf:             func(c *networkingv1.IngressClass) any { return &c.Spec },
	Default: func(c *networkingv1.IngressClass) {
		if c.Spec.Parameters != nil {
			resource.SetDefaultPtr(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
		}
	},
	Validate: validateIngressClass,
	ValidateUpdate: func(c, old *networkingv1.IngressClass) field.ErrorList {
		return append(validate.Immutable(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller")), validateIngressClass(c)...)
	},
	Columns: named(resource.Columns([]resource.Column[*networkingv1.IngressClass]{
		{Name: "Controller", Description: "Controller that is responsible for handling this class", Get: func(c *networkingv1.IngressClass) any {
			return c.Spec.Controller
		}},
		{Name: "Parameters", Description: "A reference to a resource with additional parameters", Get: func(c *networkingv1.IngressClass) any {
			p := c.Spec.Parameters
			if p == nil {
				return "<none>"
			}
			if p.APIGroup != nil {
				return p.Kind + "." + *p.APIGroup + "/" + p.Name
			}
			return p.Kind + "/" + p.Name
		}},
	}...), func(c *networkingv1.IngressClass) any {
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			return c.Name + " (default)"
		}
		return c.Name
	}),
}

const maxController = 250

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if len(c.Spec.Controller) > maxController {
		errs = append(errs, field.TooLong(spec.Child("controller"), "", maxController))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(spec.Child("controller"), c.Spec.Controller)...)
	params := c.Spec.Parameters
	if params == nil {
		return errs
	}
	paramsPath := spec.Child("parameters")
	if params.APIGroup != nil {
		errs = append(errs, validate.DNSSubdomain(*params.APIGroup, paramsPath.Child("apiGroup"))...)
	}
	errs = append(errs, requireSegment(params.Kind, paramsPath.Child("kind"))...)
	errs = append(errs, requireSegment(params.Name, paramsPath.Child("name"))...)
	scopePath, namespacePath := paramsPath.Child("scope"), paramsPath.Child("namespace")
	if params.Scope == nil {
		return append(errs, field.Required(scopePath, ""))
	}
	errs = append(errs, validate.OneOf(*params.Scope, scopePath,
		networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)...)
	switch {
	case *params.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace && params.Namespace == nil:
		errs = append(errs, field.Required(namespacePath, "`parameters.scope` is set to 'Namespace'"))
	case *params.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace:
		errs = append(errs, validate.DNSLabel(*params.Namespace, namespacePath)...)
	case *params.Scope == networkingv1.IngressClassParametersReferenceScopeCluster && params.Namespace != nil:
		errs = append(errs, field.Forbidden(namespacePath, "`parameters.scope` is set to 'Cluster'"))
	}
	return errs
}

// requireSegment demands a value that can be a part of a URL path.
func requireSegment(value string, fieldPath *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(fieldPath, "")}
	}
	return validate.Messages(fieldPath, value, content.IsPathSegmentName(value))
}

// named lets the first column, the name, say more.
func named[T resource.Object](columns []resource.Column[T], name func(T) any) []resource.Column[T] {
	columns[0].Get = name
	return columns
}
