package flowcontrol

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// flowSchema sorts requests into priority levels.
var flowSchema = resource.Definition[*flowcontrolv1.FlowSchema]{
	GroupVersion: flowcontrolv1.SchemeGroupVersion, Kind: "FlowSchema", Plural: "flowschemas", HasStatus: true, StatusFixes: []string{"metadata"},
	Default: func(s *flowcontrolv1.FlowSchema) {
		resource.SetDefault(&s.Spec.MatchingPrecedence, defaultPrecedence)
	},
	Validate: validateFlowSchema,
	ValidateStatus: func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
		return uniqueConditions(s.Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) string { return string(c.Type) })
	},
	RowOrder: func(a, b *flowcontrolv1.FlowSchema) int { // that in which requests are matched
		return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), cmp.Compare(a.Name, b.Name))
	},
	Columns: append(resource.Columns([]resource.Column[*flowcontrolv1.FlowSchema]{
		{Name: "PriorityLevel", Description: flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"], Get: func(s *flowcontrolv1.FlowSchema) any {
			return s.Spec.PriorityLevelConfiguration.Name
		}},
		{Name: "MatchingPrecedence", Description: schemaDoc("matchingPrecedence"), Get: func(s *flowcontrolv1.FlowSchema) any {
			return int64(s.Spec.MatchingPrecedence)
		}},
		{Name: "DistinguisherMethod", Description: schemaDoc("distinguisherMethod"), Get: func(s *flowcontrolv1.FlowSchema) any {
			if s.Spec.DistinguisherMethod == nil {
				return "<none>"
			}
			return string(s.Spec.DistinguisherMethod.Type)
		}},
	}...), resource.Column[*flowcontrolv1.FlowSchema]{
		Name: "MissingPL", Description: "references a broken or non-existent PriorityLevelConfiguration",
		Get: func(s *flowcontrolv1.FlowSchema) any {
			for _, c := range s.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					return string(c.Status)
				}
			}
			return "?"
		},
	}),
}

func schemaDoc(name string) string { return flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()[name] }

const (
	defaultPrecedence int32 = 1000
	maxPrecedence     int32 = 10000
)

func validateFlowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	var errs field.ErrorList
	precedence := path.Child("matchingPrecedence")
	switch {
	case spec.MatchingPrecedence <= 0:
		errs = append(errs, field.Invalid(precedence, spec.MatchingPrecedence, "must be a positive value"))
	case spec.MatchingPrecedence > maxPrecedence:
		errs = append(errs, field.Invalid(precedence, spec.MatchingPrecedence, fmt.Sprintf("must not be greater than %v", maxPrecedence)))
	case spec.MatchingPrecedence == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt:
		errs = append(errs, field.Invalid(precedence, spec.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if method := spec.DistinguisherMethod; method != nil {
		known := []flowcontrolv1.FlowDistinguisherMethodType{flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType}
		if !slices.Contains(known, method.Type) {
			errs = append(errs, field.NotSupported(path.Child("distinguisherMethod", "type"), method, known))
		}
	}
	level := path.Child("priorityLevelConfiguration", "name")
	if spec.PriorityLevelConfiguration.Name == "" {
		errs = append(errs, field.Required(level, "must reference a priority level"))
	} else {
		errs = append(errs, validate.ObjectName(spec.PriorityLevelConfiguration.Name, level, apivalidation.NameIsDNSSubdomain)...)
	}
	for i := range spec.Rules {
		errs = append(errs, validateFlowRule(&spec.Rules[i], path.Child("rules").Index(i))...)
	}
	return errs
}

func validateFlowRule(rule *flowcontrolv1.PolicyRulesWithSubjects, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(rule.Subjects) == 0 {
		errs = append(errs, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range rule.Subjects {
		errs = append(errs, validateFlowSubject(&rule.Subjects[i], path.Child("subjects").Index(i))...)
	}
	if len(rule.ResourceRules)+len(rule.NonResourceRules) == 0 {
		errs = append(errs, field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i, r := range rule.ResourceRules {
		rulePath := path.Child("resourceRules").Index(i)
		errs = append(errs, validateVerbs(r.Verbs, rulePath.Child("verbs"))...)
		errs = append(errs, wildcardAlone(r.APIGroups, rulePath.Child("apiGroups"), "resource rules must supply at least one api group", true)...)
		errs = append(errs, wildcardAlone(r.Resources, rulePath.Child("resources"), "resource rules must supply at least one resource", true)...)
		switch {
		case len(r.Namespaces) == 0 && !r.ClusterScope:
			errs = append(errs, field.Required(rulePath.Child("namespaces"), "resource rules that are not cluster scoped must supply at least one namespace"))
		default:
			errs = append(errs, wildcardAlone(r.Namespaces, rulePath.Child("namespaces"), "", false)...)
			for j, namespace := range r.Namespaces {
				if messages := apivalidation.NameIsDNSLabel(namespace, false); namespace != "*" && len(messages) > 0 {
					errs = append(errs, field.Invalid(rulePath.Child("namespaces").Index(j), namespace,
						"each member of this list must be '*' or a DNS-1123 label; "+strings.Join(messages, "; ")))
				}
			}
		}
	}
	for i, r := range rule.NonResourceRules {
		rulePath := path.Child("nonResourceRules").Index(i)
		errs = append(errs, validateVerbs(r.Verbs, rulePath.Child("verbs"))...)
		errs = append(errs, wildcardAlone(r.NonResourceURLs, rulePath.Child("nonResourceURLs"), "nonResourceURLs must contain at least one value", true)...)
		for j, url := range r.NonResourceURLs {
			errs = append(errs, validateURLPath(url, rulePath.Child("nonResourceURLs").Index(j))...)
		}
	}
	return errs
}

// wildcardAlone demands that "*" stands alone in a list.
func wildcardAlone(values []string, path *field.Path, none string, required bool) field.ErrorList {
	switch {
	case len(values) == 0 && required:
		return field.ErrorList{field.Required(path, none)}
	case len(values) > 1 && slices.Contains(values, "*"):
		return field.ErrorList{field.Invalid(path, values, "if '*' is present, must not specify other "+plural[lastPart(path)])}
	}
	return nil
}

func lastPart(path *field.Path) string {
	full := path.String()
	return full[strings.LastIndexByte(full, '.')+1:]
}

// plural are the words of upstream's errors.
var plural = map[string]string{"verbs": "verbs", "apiGroups": "api groups", "resources": "resources", "namespaces": "namespaces", "nonResourceURLs": "nonResourceURLs"}

var verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

func validateVerbs(values []string, path *field.Path) field.ErrorList {
	errs := wildcardAlone(values, path, "verbs must contain at least one value", true)
	for _, verb := range values {
		if !slices.Contains(values, "*") && !slices.Contains(verbs, verb) {
			errs = append(errs, field.NotSupported(path, values, verbs))
			break
		}
	}
	return errs
}

func validateURLPath(url string, path *field.Path) field.ErrorList {
	if url == "" {
		return field.ErrorList{field.Invalid(path, url, "must not be empty")}
	}
	if url == "*" || url == "/" {
		return nil
	}
	switch {
	case !strings.HasPrefix(url, "/"):
		return field.ErrorList{field.Invalid(path, url, "must start with slash")}
	case strings.Contains(url, " "):
		return field.ErrorList{field.Invalid(path, url, "must not contain white-space")}
	case strings.Contains(url, "//"):
		return field.ErrorList{field.Invalid(path, url, "must not contain double slash")}
	case strings.Contains(strings.TrimSuffix(url, "/*"), "*"):
		return field.ErrorList{field.Invalid(path, url, "wildcard can only do suffix matching")}
	}
	return nil
}

func validateFlowSubject(s *flowcontrolv1.Subject, path *field.Path) field.ErrorList {
	errs := validate.OneOf(s.Kind, path.Child("kind"), flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser)
	if len(errs) > 0 {
		return errs
	}
	for _, member := range []struct {
		kind flowcontrolv1.SubjectKind
		name string
		set  bool
	}{
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil},
	} {
		memberPath := path.Child(member.name)
		switch {
		case s.Kind == member.kind && !member.set:
			errs = append(errs, field.Required(memberPath, fmt.Sprintf("%s is required when subject kind is '%s'", member.name, member.kind)))
		case s.Kind != member.kind && member.set:
			errs = append(errs, field.Forbidden(memberPath, fmt.Sprintf("%s is forbidden when subject kind is not '%s'", member.name, member.kind)))
		}
	}
	required := func(name string, at *field.Path) {
		if name == "" {
			errs = append(errs, field.Required(at, ""))
		}
	}
	switch {
	case s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil:
		required(s.User.Name, path.Child("user", "name"))
	case s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil:
		required(s.Group.Name, path.Child("group", "name"))
	case s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil:
		account := path.Child("serviceAccount")
		required(s.ServiceAccount.Name, account.Child("name"))
		if s.ServiceAccount.Name != "" && s.ServiceAccount.Name != "*" {
			errs = append(errs, validate.ObjectName(s.ServiceAccount.Name, account.Child("name"), apivalidation.NameIsDNSSubdomain)...)
		}
		if s.ServiceAccount.Namespace == "" {
			errs = append(errs, field.Required(account.Child("namespace"), "must specify namespace for service account"))
		} else {
			errs = append(errs, validate.ObjectName(s.ServiceAccount.Namespace, account.Child("namespace"), apivalidation.NameIsDNSLabel)...)
		}
	}
	return errs
}

func uniqueConditions[C any](conditions []C, kind func(C) string) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, c := range conditions {
		path := field.NewPath("status", "conditions").Index(i).Child("type")
		if kind(c) == "" {
			errs = append(errs, field.Required(path, ""))
		}
		if seen[kind(c)] {
			errs = append(errs, field.Duplicate(path, kind(c)))
		}
		seen[kind(c)] = true
	}
	return errs
}
