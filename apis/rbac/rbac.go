// Package rbac holds the rows of the API group rbac.authorization.k8s.io. Whether somebody may grant what a role holds is decided
// by package apiserver, which knows the user.
package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		role.Resource(),
		roleBinding.Resource(),
		clusterRole.Resource(),
		clusterRoleBinding.Resource(),
	}
}

// validateName lets roles have names with colons, like system:node.
func validateName(name string, _ bool) []string { return content.IsPathSegmentName(name) }

func validateRules(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i := range rules {
		errs = append(errs, validateRule(&rules[i], namespaced, field.NewPath("rules").Index(i))...)
	}
	return errs
}

func validateRule(rule *rbacv1.PolicyRule, namespaced bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(rule.Verbs) == 0 {
		errs = append(errs, field.Required(path.Child("verbs"), ""))
	}
	if len(rule.NonResourceURLs) > 0 {
		urls := path.Child("nonResourceURLs")
		if namespaced {
			errs = append(errs, field.Invalid(urls, rule.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
		}
		if len(rule.APIGroups)+len(rule.Resources)+len(rule.ResourceNames) > 0 {
			errs = append(errs, field.Invalid(urls, rule.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
		}
		return errs
	}
	if len(rule.APIGroups) == 0 {
		errs = append(errs, field.Required(path.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	if len(rule.Resources) == 0 {
		errs = append(errs, field.Required(path.Child("resources"), "resource rules must supply at least one resource"))
	}
	return errs
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	resource.SetDefault(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if kind := subjects[i].Kind; kind == rbacv1.UserKind || kind == rbacv1.GroupKind {
			resource.SetDefault(&subjects[i].APIGroup, rbacv1.GroupName)
		}
	}
}

// validateBinding checks a binding; roleKinds are those that it may refer to.
func validateBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool, roleKinds ...string) field.ErrorList {
	var errs field.ErrorList
	refPath := field.NewPath("roleRef")
	if ref.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(refPath.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	if !slices.Contains(roleKinds, ref.Kind) {
		errs = append(errs, field.NotSupported(refPath.Child("kind"), ref.Kind, roleKinds))
	}
	if ref.Name == "" {
		errs = append(errs, field.Required(refPath.Child("name"), ""))
	} else {
		errs = append(errs, validate.Messages(refPath.Child("name"), ref.Name, content.IsPathSegmentName(ref.Name))...)
	}
	for i := range subjects {
		errs = append(errs, validateSubject(&subjects[i], namespaced, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func validateSubject(subject *rbacv1.Subject, namespaced bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if subject.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	group := rbacv1.GroupName
	switch subject.Kind {
	case rbacv1.ServiceAccountKind:
		group = ""
		if subject.Name != "" {
			errs = append(errs, validate.Messages(path.Child("name"), subject.Name, validation.IsDNS1123Subdomain(subject.Name))...)
		}
		if !namespaced && subject.Namespace == "" {
			errs = append(errs, field.Required(path.Child("namespace"), ""))
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
	default:
		return append(errs, field.NotSupported(path.Child("kind"), subject.Kind,
			[]string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	if subject.APIGroup != group {
		errs = append(errs, field.NotSupported(path.Child("apiGroup"), subject.APIGroup, []string{group}))
	}
	return errs
}

func validateRoleRefUpdate(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref == old {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), ref, "field is immutable")}
}

// bindingColumns are the columns of both kinds of binding.
func bindingColumns[T resource.Object](kind, roleDoc string, ref func(T) rbacv1.RoleRef, subjects func(T) []rbacv1.Subject) []resource.Column[T] {
	return resource.Columns([]resource.Column[T]{
		{Name: "Role", Description: strings.TrimSuffix(roleDoc, " This field is immutable."), Get: func(obj T) any {
			return ref(obj).Kind + "/" + ref(obj).Name
		}},
		{Name: "Users", Priority: 1, Description: "Users in the " + kind, Get: func(obj T) any {
			return subjectNames(subjects(obj), rbacv1.UserKind)
		}},
		{Name: "Groups", Priority: 1, Description: "Groups in the " + kind, Get: func(obj T) any {
			return subjectNames(subjects(obj), rbacv1.GroupKind)
		}},
		{Name: "ServiceAccounts", Priority: 1, Description: "ServiceAccounts in the " + kind, Get: func(obj T) any {
			return subjectNames(subjects(obj), rbacv1.ServiceAccountKind)
		}},
	}...)
}

func subjectNames(subjects []rbacv1.Subject, kind string) string {
	var names []string
	for _, subject := range subjects {
		switch {
		case subject.Kind != kind:
		case kind == rbacv1.ServiceAccountKind:
			names = append(names, subject.Namespace+"/"+subject.Name)
		default:
			names = append(names, subject.Name)
		}
	}
	return strings.Join(names, ", ")
}
