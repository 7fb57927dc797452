package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
)

var operations = []admissionregistrationv1.OperationType{
	admissionregistrationv1.OperationAll, admissionregistrationv1.Connect, admissionregistrationv1.Create,
	admissionregistrationv1.Delete, admissionregistrationv1.Update,
}

func validateRule(rule *admissionregistrationv1.RuleWithOperations, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	operationsPath := path.Child("operations")
	if len(rule.Operations) == 0 {
		errs = append(errs, field.Required(operationsPath, ""))
	}
	if len(rule.Operations) > 1 && slices.Contains(rule.Operations, admissionregistrationv1.OperationAll) {
		errs = append(errs, field.Invalid(operationsPath, rule.Operations, "if '*' is present, must not specify other operations"))
	}
	for i, operation := range rule.Operations {
		errs = append(errs, validate.OneOf(operation, operationsPath.Index(i), operations...)...)
	}
	errs = append(errs, validateList(rule.APIGroups, path.Child("apiGroups"), "API groups", false)...)
	errs = append(errs, validateList(rule.APIVersions, path.Child("apiVersions"), "API versions", true)...)
	errs = append(errs, validateResources(rule.Resources, path.Child("resources"))...)
	return append(errs, validate.OptionalOneOf(rule.Scope, path.Child("scope"), admissionregistrationv1.AllScopes,
		admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope)...)
}

// validateList demands at least one value and that "*" stands alone; the empty group is the core group, but no version is empty.
func validateList(values []string, path *field.Path, what string, notEmpty bool) field.ErrorList {
	var errs field.ErrorList
	if len(values) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	if len(values) > 1 && slices.Contains(values, "*") {
		errs = append(errs, field.Invalid(path, values, fmt.Sprintf("if '*' is present, must not specify other %s", what)))
	}
	for i, value := range values {
		if notEmpty && value == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
		}
	}
	return errs
}

// validateResources rejects what another entry of the list covers already.
func validateResources(resources []string, path *field.Path) field.ErrorList {
	if len(resources) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	withSubresource, resourcesWithStar, subresourcesWithStar := sets.New[string](), sets.New[string](), sets.New[string]()
	for i, entry := range resources {
		if entry == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
			continue
		}
		if entry == "*/*" && len(resources) > 1 {
			errs = append(errs, field.Invalid(path, resources, "if '*/*' is present, must not specify other resources"))
		}
		name, subresource, found := strings.Cut(entry, "/")
		if !found {
			continue
		}
		withSubresource.Insert(entry)
		if resourcesWithStar.Has(name) {
			errs = append(errs, field.Invalid(path.Index(i), entry, fmt.Sprintf("if '%s/*' is present, must not specify %s", name, entry)))
		}
		if subresourcesWithStar.Has(subresource) {
			errs = append(errs, field.Invalid(path.Index(i), entry, fmt.Sprintf("if '*/%s' is present, must not specify %s", subresource, entry)))
		}
		if subresource == "*" {
			resourcesWithStar.Insert(name)
		}
		if name == "*" {
			subresourcesWithStar.Insert(subresource)
		}
	}
	if len(resources) > 1 && slices.Contains(resources, "*") && withSubresource.Len() == 0 {
		errs = append(errs, field.Invalid(path, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}
