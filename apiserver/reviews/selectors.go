package reviews

import (
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// resourceAttributes turns the attributes of a review into those of a request. Requirements that cannot be understood are left
// out: a selector only ever narrows what is asked for, so a shorter one asks for more, never for less.
func resourceAttributes(in *authorizationv1.ResourceAttributes) authorizer.AttributesRecord {
	out := authorizer.AttributesRecord{
		Verb: in.Verb, Namespace: in.Namespace, APIGroup: in.Group, APIVersion: in.Version,
		Resource: in.Resource, Subresource: in.Subresource, Name: in.Name, ResourceRequest: true,
	}
	if out.APIVersion == "" {
		out.APIVersion = "*"
	}
	if s := in.FieldSelector; s != nil {
		if s.RawSelector != "" {
			selector, err := fields.ParseSelector(s.RawSelector)
			if err != nil {
				out.FieldSelectorRequirements, out.FieldSelectorParsingErr = nil, err
			} else {
				out.FieldSelectorRequirements = selector.Requirements()
			}
		} else {
			out.FieldSelectorRequirements, out.FieldSelectorParsingErr = fieldRequirements(s.Requirements)
		}
	}
	if s := in.LabelSelector; s != nil {
		if s.RawSelector != "" {
			requirements, err := labels.ParseToRequirements(s.RawSelector)
			if err != nil {
				out.LabelSelectorRequirements, out.LabelSelectorParsingErr = nil, err
			} else {
				out.LabelSelectorRequirements = requirements
			}
		} else {
			out.LabelSelectorRequirements, out.LabelSelectorParsingErr = labelRequirements(s.Requirements)
		}
	}
	return out
}

func fieldRequirements(in []metav1.FieldSelectorRequirement) (fields.Requirements, error) {
	var out fields.Requirements
	var errs []error
	for _, r := range in {
		switch {
		case len(r.Values) != 1:
			errs = append(errs, fmt.Errorf("fieldSelectors do not yet support %v", r.Operator))
		case r.Operator == metav1.FieldSelectorOpIn:
			out = append(out, fields.Requirement{Field: r.Key, Operator: selection.Equals, Value: r.Values[0]})
		case r.Operator == metav1.FieldSelectorOpNotIn:
			out = append(out, fields.Requirement{Field: r.Key, Operator: selection.NotEquals, Value: r.Values[0]})
		default:
			errs = append(errs, fmt.Errorf("%q is not a valid field selector operator", r.Operator))
		}
	}
	return out, utilerrors.NewAggregate(errs)
}

func labelRequirements(in []metav1.LabelSelectorRequirement) (labels.Requirements, error) {
	operators := map[metav1.LabelSelectorOperator]selection.Operator{
		metav1.LabelSelectorOpIn: selection.In, metav1.LabelSelectorOpNotIn: selection.NotIn,
		metav1.LabelSelectorOpExists: selection.Exists, metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	var out labels.Requirements
	var errs []error
	for _, r := range in {
		operator, ok := operators[r.Operator]
		if !ok {
			errs = append(errs, fmt.Errorf("%q is not a valid label selector operator", r.Operator))
			continue
		}
		requirement, err := labels.NewRequirement(r.Key, operator, r.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, *requirement)
	}
	return out, utilerrors.NewAggregate(errs)
}

func validateSelectors(in *authorizationv1.ResourceAttributes, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s := in.FieldSelector; s != nil {
		errs = append(errs, validateSelector(s.RawSelector, len(s.Requirements), path.Child("fieldSelector"))...)
		for i, r := range s.Requirements {
			at := path.Child("fieldSelector", "requirements").Index(i)
			if r.Key == "" {
				errs = append(errs, field.Required(at.Child("key"), "must be specified"))
			}
			errs = append(errs, validateValues(string(r.Operator), r.Values, at)...)
		}
	}
	if s := in.LabelSelector; s != nil {
		errs = append(errs, validateSelector(s.RawSelector, len(s.Requirements), path.Child("labelSelector"))...)
		for i, r := range s.Requirements {
			at := path.Child("labelSelector", "requirements").Index(i)
			if r.Key == "" {
				errs = append(errs, field.Required(at.Child("key"), "must be specified"))
			}
			errs = append(errs, validateValues(string(r.Operator), r.Values, at)...)
		}
	}
	return errs
}

func validateSelector(raw string, requirements int, path *field.Path) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(path.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(path.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", path))}
	}
	return nil
}

func validateValues(operator string, values []string, path *field.Path) field.ErrorList {
	switch operator {
	case string(metav1.LabelSelectorOpIn), string(metav1.LabelSelectorOpNotIn):
		if len(values) == 0 {
			return field.ErrorList{field.Required(path.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'")}
		}
	case string(metav1.LabelSelectorOpExists), string(metav1.LabelSelectorOpDoesNotExist):
		if len(values) > 0 {
			return field.ErrorList{field.Forbidden(path.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")}
		}
	default:
		return field.ErrorList{field.Invalid(path.Child("operator"), operator, "not a valid selector operator")}
	}
	return nil
}
