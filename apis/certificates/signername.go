package certificates

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateSignerName demands a domain and a path, like example.com/signer: the path has room for a namespace and a name.
func ValidateSignerName(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	segments := strings.Split(name, "/")
	if len(segments) != 2 {
		return field.ErrorList{field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	const maxDomain = validation.DNS1123SubdomainMaxLength
	const maxPath = validation.DNS1123SubdomainMaxLength + 1 + validation.DNS1123LabelMaxLength
	var errs field.ErrorList
	if len(segments[0]) > maxDomain {
		errs = append(errs, field.TooLong(path, "", maxDomain))
	}
	labels := strings.Split(segments[0], ".")
	if len(labels) < 2 {
		errs = append(errs, field.Invalid(path, segments[0], "should be a domain with at least two segments separated by dots"))
	}
	errs = append(errs, checkLabels(path, segments[0], labels, validation.IsDNS1123Label)...)
	errs = append(errs, checkLabels(path, segments[1], strings.Split(segments[1], "."), validation.IsDNS1123Subdomain)...)
	if len(segments[1]) > maxPath {
		errs = append(errs, field.TooLong(path, "", maxPath))
	}
	return errs
}

func checkLabels(path *field.Path, value string, labels []string, check func(string) []string) field.ErrorList {
	var errs field.ErrorList
	for _, label := range labels {
		for _, message := range check(label) {
			errs = append(errs, field.Invalid(path, value, fmt.Sprintf("validating label %q: %s", label, message)))
		}
	}
	return errs
}
