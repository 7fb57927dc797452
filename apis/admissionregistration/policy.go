package admissionregistration

import (
	"regexp"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// This file holds what validating and mutating policies and their bindings share. Expressions are only checked for being there:
// package apiserver compiles them, for it has the environments of CEL.

func defaultMatch(m *admissionregistrationv1.MatchResources) {
	if m == nil {
		return
	}
	resource.SetDefaultPtr(&m.MatchPolicy, admissionregistrationv1.Equivalent)
	resource.SetDefaultPtr(&m.NamespaceSelector, metav1.LabelSelector{})
	resource.SetDefaultPtr(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]admissionregistrationv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			resource.SetDefaultPtr(&rules[i].Scope, admissionregistrationv1.AllScopes)
		}
	}
}

func validateMatch(m *admissionregistrationv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	if m.MatchPolicy == nil {
		errs = append(errs, field.Required(path.Child("matchPolicy"), ""))
	}
	errs = append(errs, validate.OptionalOneOf(m.MatchPolicy, path.Child("matchPolicy"),
		admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)...)
	for _, selector := range []struct {
		name  string
		value *metav1.LabelSelector
	}{{"namespaceSelector", m.NamespaceSelector}, {"objectSelector", m.ObjectSelector}} {
		if selector.value == nil {
			errs = append(errs, field.Required(path.Child(selector.name), ""))
		}
		errs = append(errs, validate.LabelSelector(selector.value, path.Child(selector.name))...)
	}
	for i := range m.ResourceRules {
		errs = append(errs, validateNamedRule(&m.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, validateNamedRule(&m.ExcludeResourceRules[i], path.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func validateNamedRule(rule *admissionregistrationv1.NamedRuleWithOperations, rulePath *field.Path) field.ErrorList {
	errs := validateRule(&rule.RuleWithOperations, rulePath)
	names := sets.New[string]()
	for i, name := range rule.ResourceNames {
		namePath := rulePath.Child("resourceNames").Index(i)
		errs = append(errs, validate.Messages(namePath, name, content.IsPathSegmentName(name))...)
		if names.Has(name) {
			errs = append(errs, field.Duplicate(namePath, name))
		}
		names.Insert(name)
	}
	return errs
}

// validateConstraints is validateMatch for a policy, which has to match something.
func validateConstraints(m *admissionregistrationv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := validateMatch(m, path)
	if len(m.ResourceRules) == 0 {
		errs = append(errs, field.Required(path.Child("resourceRules"), ""))
	}
	return errs
}

// validateMutable refuses rules for deletions: what is deleted cannot be changed.
func validateMutable(m *admissionregistrationv1.MatchResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m == nil {
		return nil
	}
	for _, rule := range m.ResourceRules {
		for _, operation := range rule.Operations {
			errs = append(errs, validate.OneOf(operation, path.Child("resourceRules", "operations"), admissionregistrationv1.OperationAll,
				admissionregistrationv1.Connect, admissionregistrationv1.Create, admissionregistrationv1.Update)...)
		}
	}
	return errs
}

func validateParamKind(kind *admissionregistrationv1.ParamKind, path *field.Path) field.ErrorList {
	if kind == nil {
		return nil
	}
	var errs field.ErrorList
	version := path.Child("apiVersion")
	if kind.APIVersion == "" {
		errs = append(errs, field.Required(version, ""))
	} else if gv, err := schema.ParseGroupVersion(kind.APIVersion); err != nil {
		errs = append(errs, field.Invalid(version, kind.APIVersion, err.Error()))
	} else if messages := validation.IsDNS1123Subdomain(gv.Group); gv.Group != "" && len(messages) > 0 {
		errs = append(errs, validate.Messages(version, gv.Group, messages)...)
	} else if gv.Version == "" || len(validation.IsDNS1035Label(gv.Version)) > 0 {
		errs = append(errs, field.Invalid(version, kind.APIVersion, strings.Join(validation.IsDNS1035Label(gv.Version), ",")))
	}
	if kind.Kind == "" {
		return append(errs, field.Required(path.Child("kind"), ""))
	}
	if messages := validation.IsDNS1035Label(strings.ToLower(kind.Kind)); len(messages) > 0 {
		errs = append(errs, field.Invalid(path.Child("kind"), kind.Kind, "may have mixed case, but should otherwise match: "+strings.Join(messages, ",")))
	}
	return errs
}

var (
	identifier       = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	reservedWords    = sets.New("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop", "namespace", "null", "package", "return", "true", "var", "void", "while")
	reservedVariable = "must be a valid CEL identifier"
)

func validateVariables(variables []admissionregistrationv1.Variable, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, variable := range variables {
		variablePath := path.Index(i)
		name := variablePath.Child("name")
		switch {
		case strings.TrimSpace(variable.Name) == "":
			errs = append(errs, field.Required(name, "name is not specified"))
		case !identifier.MatchString(variable.Name) || reservedWords.Has(variable.Name):
			errs = append(errs, field.Invalid(name, variable.Name, reservedVariable))
		}
		if strings.TrimSpace(variable.Expression) == "" {
			errs = append(errs, field.Required(variablePath.Child("expression"), "expression is not specified"))
		}
	}
	return errs
}

func validateFailurePolicy(policy *admissionregistrationv1.FailurePolicyType, path *field.Path) field.ErrorList {
	if policy == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	return validate.OneOf(*policy, path, admissionregistrationv1.Fail, admissionregistrationv1.Ignore)
}

func validatePolicyName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return validate.ObjectName(name, path, apivalidation.NameIsDNSSubdomain)
}

func validateParamRef(ref *admissionregistrationv1.ParamRef, refPath *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	var errs field.ErrorList
	name, selector := refPath.Child("name"), refPath.Child("selector")
	if ref.Name != "" {
		errs = append(errs, validate.Messages(name, ref.Name, content.IsPathSegmentName(ref.Name))...)
		if ref.Selector != nil {
			errs = append(errs, field.Forbidden(name, "name and selector are mutually exclusive"))
		}
	}
	if ref.Selector != nil {
		errs = append(errs, validate.LabelSelector(ref.Selector, selector)...)
		if ref.Name != "" {
			errs = append(errs, field.Forbidden(selector, "name and selector are mutually exclusive"))
		}
	}
	if ref.Name == "" && ref.Selector == nil {
		errs = append(errs, field.Required(refPath, "one of name or selector must be specified"))
	}
	action := refPath.Child("parameterNotFoundAction")
	if ref.ParameterNotFoundAction == nil || *ref.ParameterNotFoundAction == "" {
		return append(errs, field.Required(action, ""))
	}
	return append(errs, validate.OneOf(*ref.ParameterNotFoundAction, action,
		admissionregistrationv1.DenyAction, admissionregistrationv1.AllowAction)...)
}

func printParamKind(kind *admissionregistrationv1.ParamKind) string {
	if kind == nil {
		return "<unset>"
	}
	return kind.APIVersion + "/" + kind.Kind
}

func printParamRef(ref *admissionregistrationv1.ParamRef) string {
	switch {
	case ref == nil:
		return "<unset>"
	case ref.Name != "" && ref.Namespace != "":
		return ref.Namespace + "/" + ref.Name
	case ref.Name != "":
		return "*/" + ref.Name // in the namespace of what is checked, or in none
	case ref.Selector != nil:
		return ref.Selector.String()
	}
	return ""
}

// policyColumns are those of both kinds of policy.
func policyColumns[T resource.Object](counted, doc string, count func(T) int, kind func(T) *admissionregistrationv1.ParamKind) []resource.Column[T] {
	return resource.Columns([]resource.Column[T]{
		{
			Name: counted, Type: "integer", Description: doc,
			Get: func(obj T) any { return int64(count(obj)) },
		},
		{Name: "ParamKind", Description: "ParamKind specifies the kind of resources used to parameterize this policy", Get: func(obj T) any {
			return printParamKind(kind(obj))
		}},
	}...)
}

// bindingColumns are those of both kinds of binding.
func bindingColumns[T resource.Object](policy func(T) string, ref func(T) *admissionregistrationv1.ParamRef) []resource.Column[T] {
	return resource.Columns([]resource.Column[T]{
		{Name: "PolicyName", Description: "PolicyName indicates the policy definition which the policy binding binded to", Get: func(obj T) any { return policy(obj) }},
		{Name: "ParamRef", Description: "ParamRef indicates the param resource which sets the configuration param", Get: func(obj T) any { return printParamRef(ref(obj)) }},
	}...)
}
