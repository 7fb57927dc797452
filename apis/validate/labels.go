package validate

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Labels checks keys and values of a label map.
func Labels(set map[string]string, path *field.Path) field.ErrorList {
	return metav1validation.ValidateLabels(set, path)
}

// LabelName checks a label key.
func LabelName(name string, path *field.Path) field.ErrorList {
	return metav1validation.ValidateLabelName(name, path)
}

// LabelValue checks a label value.
func LabelValue(value string, path *field.Path) field.ErrorList {
	return Messages(path, value, validation.IsValidLabelValue(value))
}

// LabelSelector checks a selector; nil is fine.
func LabelSelector(selector *metav1.LabelSelector, path *field.Path) field.ErrorList {
	return metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, path)
}

// WorkloadSelector checks the selector of a controller: present, not empty, and matching its own template.
func WorkloadSelector(selector *metav1.LabelSelector, templateLabels map[string]string, specPath *field.Path, kind string) field.ErrorList {
	path := specPath.Child("selector")
	if selector == nil { // an absent selector matches nothing, and both errors are told
		return append(field.ErrorList{field.Required(path, "")}, SelectorMatchesTemplate(selector, templateLabels, specPath)...)
	}
	errs := LabelSelector(selector, path)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, selector, "empty selector is invalid for "+kind))
	}
	return append(errs, SelectorMatchesTemplate(selector, templateLabels, specPath)...)
}

// SelectorMatchesTemplate demands that pods of the template are selected; an empty selector is left to others to reject.
func SelectorMatchesTemplate(selector *metav1.LabelSelector, templateLabels map[string]string, specPath *field.Path) field.ErrorList {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return field.ErrorList{field.Invalid(specPath.Child("selector"), selector, "invalid label selector")}
	}
	if parsed.Empty() || parsed.Matches(labels.Set(templateLabels)) {
		return nil
	}
	path := specPath.Child("template", "metadata", "labels")
	return field.ErrorList{field.Invalid(path, templateLabels, "`selector` does not match template `labels`")}
}

// LabelKeys counts how often a selector names each key.
func LabelKeys(selector *metav1.LabelSelector) map[string]int {
	count := map[string]int{}
	if selector == nil {
		return count
	}
	for key := range selector.MatchLabels {
		count[key]++
	}
	for _, expression := range selector.MatchExpressions {
		count[expression.Key]++
	}
	return count
}

// MatchLabelKeys checks the label keys whose values a pod adds to a selector on its own.
func MatchLabelKeys(keys []string, selector *metav1.LabelSelector, path *field.Path) field.ErrorList {
	if len(keys) == 0 {
		return nil
	}
	if selector == nil {
		return field.ErrorList{field.Forbidden(path, "must not be specified when labelSelector is not set")}
	}
	var errs field.ErrorList
	for i, key := range keys {
		errs = append(errs, LabelName(key, path.Index(i))...)
	}
	return errs
}
