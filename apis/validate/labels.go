package validate

import (
	"reflect"
	"slices"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Labels checks keys and values of a label map.
func Labels(set map[string]string, path *field.Path) field.ErrorList {
	return metav1validation.ValidateLabels(set, path)
}

// TemplateMetadata checks the metadata of a template whose objects get nothing but labels and annotations from it.
func TemplateMetadata(meta *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	errs := append(apivalidation.ValidateAnnotations(meta.Annotations, path.Child("annotations")), Labels(meta.Labels, path.Child("labels"))...)
	value := reflect.ValueOf(meta).Elem()
	for i := range value.NumField() {
		if name := value.Type().Field(i).Name; name != "Labels" && name != "Annotations" && !value.Field(i).IsZero() {
			errs = append(errs, field.Forbidden(path.Child(strings.ToLower(name[:1])+name[1:]), "cannot be set"))
		}
	}
	return errs
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

// WorkloadSelector checks the selector of a controller: present, not empty, and matching its own template. invalid is what is said of
// one that cannot be parsed.
func WorkloadSelector(selector *metav1.LabelSelector, templateLabels map[string]string, specPath *field.Path, kind, invalid string) field.ErrorList {
	path := specPath.Child("selector")
	if selector == nil { // an absent selector matches nothing, and both errors are told
		return append(field.ErrorList{field.Required(path, "")}, selectorMatchesTemplate(selector, templateLabels, specPath, invalid)...)
	}
	errs := LabelSelector(selector, path)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, selector, "empty selector is invalid for "+kind))
	}
	return append(errs, selectorMatchesTemplate(selector, templateLabels, specPath, invalid)...)
}

// selectorMatchesTemplate demands that pods of the template are selected; an empty selector is left to others to reject.
func selectorMatchesTemplate(selector *metav1.LabelSelector, templateLabels map[string]string, specPath *field.Path, invalid string) field.ErrorList {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return field.ErrorList{field.Invalid(specPath.Child("selector"), selector, invalid)}
	}
	if parsed.Empty() || parsed.Matches(labels.Set(templateLabels)) {
		return nil
	}
	path := specPath.Child("template", "metadata", "labels")
	return field.ErrorList{field.Invalid(path, templateLabels, "`selector` does not match template `labels`")}
}

// MatchLabelKeys checks the label keys whose values a pod adds to a selector on its own; path is that of what has them.
func MatchLabelKeys(match, mismatch []string, selector *metav1.LabelSelector, path *field.Path) field.ErrorList {
	errs := labelKeys(match, selector, path.Child("matchLabelKeys"))
	errs = append(errs, labelKeys(mismatch, selector, path.Child("mismatchLabelKeys"))...)
	last := map[string]int{}
	for i, key := range match {
		last[key] = i
	}
	if selector != nil {
		named := sets.KeySet(selector.MatchLabels)
		for _, expression := range selector.MatchExpressions {
			// One requirement for the key is the one that creation has merged in.
			if i, ok := last[expression.Key]; ok && named.Has(expression.Key) {
				errs = append(errs, field.Invalid(path.Index(i), expression.Key, "exists in both matchLabelKeys and labelSelector"))
			}
			named.Insert(expression.Key)
		}
	}
	for i, key := range match {
		if slices.Contains(mismatch, key) {
			errs = append(errs, field.Invalid(path.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
	return errs
}

func labelKeys(keys []string, selector *metav1.LabelSelector, path *field.Path) field.ErrorList {
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
