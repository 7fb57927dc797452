package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Allows tells whether one of the rules covers the request.
func Allows(request authorizer.Attributes, rules []rbacv1.PolicyRule) bool {
	for i := range rules {
		if allows(request, &rules[i]) {
			return true
		}
	}
	return false
}

func allows(request authorizer.Attributes, rule *rbacv1.PolicyRule) bool {
	if !hasOrAll(rule.Verbs, request.GetVerb()) {
		return false
	}
	if !request.IsResourceRequest() {
		return pathMatches(rule.NonResourceURLs, request.GetPath())
	}
	return hasOrAll(rule.APIGroups, request.GetAPIGroup()) &&
		resourceMatches(rule.Resources, request.GetResource(), request.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, request.GetName()))
}

func hasOrAll(list []string, item string) bool {
	return slices.Contains(list, item) || slices.Contains(list, "*")
}

// resourceMatches knows "pods", "pods/log", "*/scale" (that subresource of every resource) and "*" (everything).
func resourceMatches(list []string, resource, subresource string) bool {
	for _, item := range list {
		switch {
		case item == "*":
			return true
		case subresource == "":
			if item == resource {
				return true
			}
		default:
			if base, sub, ok := strings.Cut(item, "/"); ok && sub == subresource && (base == resource || base == "*") {
				return true
			}
		}
	}
	return false
}

// pathMatches knows exact paths, prefixes that end in a star, and "*".
func pathMatches(list []string, path string) bool {
	for _, item := range list {
		if item == "*" || item == path {
			return true
		}
		if prefix, ok := strings.CutSuffix(item, "*"); ok && strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}
