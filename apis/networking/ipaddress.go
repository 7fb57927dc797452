package networking

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// ipAddress records that a service has the address which is the object's name.
var ipAddress = resource.Definition[*networkingv1.IPAddress]{
	GroupVersion: networkingv1.SchemeGroupVersion, Kind: "IPAddress", Plural: "ipaddresses", ShortNames: []string{"ip"},
	AllowUnconditionalUpdate: true,
	ValidateName: func(name string, _ bool) []string {
		var messages []string
		for _, err := range validate.StrictIP(name, nil) {
			messages = append(messages, err.Detail)
		}
		return messages
	},
	Validate: validateIPAddress,
	ValidateUpdate: func(ip, old *networkingv1.IPAddress) field.ErrorList {
		return append(validateIPAddress(ip), validate.Fixed(ip.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))...)
	},
	Columns: resource.Columns(resource.Column[*networkingv1.IPAddress]{
		Name: "ParentRef", Description: networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"],
		Get: func(ip *networkingv1.IPAddress) any {
			ref := ip.Spec.ParentRef
			if ref == nil {
				return "<none>"
			}
			text := strings.ToLower(schema.GroupResource{Group: ref.Group, Resource: ref.Resource}.String())
			if ref.Namespace != "" {
				text += "/" + ref.Namespace
			}
			return text + "/" + ref.Name
		},
	}),
}

func validateIPAddress(ip *networkingv1.IPAddress) field.ErrorList {
	refPath := field.NewPath("spec", "parentRef")
	ref := ip.Spec.ParentRef
	if ref == nil {
		return field.ErrorList{field.Required(refPath, "")}
	}
	var errs field.ErrorList
	if ref.Group != "" {
		errs = append(errs, validate.DNSSubdomain(ref.Group, refPath.Child("group"))...)
	}
	errs = append(errs, requiredSegment(ref.Resource, refPath.Child("resource"))...)
	errs = append(errs, requiredSegment(ref.Name, refPath.Child("name"))...)
	if ref.Namespace != "" {
		errs = append(errs, validate.Messages(refPath.Child("namespace"), ref.Namespace, content.IsPathSegmentName(ref.Namespace))...)
	}
	return errs
}

// requiredSegment is requireSegment without a word of its own.
func requiredSegment(value string, fieldPath *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(fieldPath, "")}
	}
	return validate.Messages(fieldPath, value, content.IsPathSegmentName(value))
}
