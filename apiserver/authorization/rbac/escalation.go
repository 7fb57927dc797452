package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	rbacvalidation "k8s.io/component-helpers/auth/rbac/validation"
)

// Check decides whether the user of the request may write obj; old is nil on create. It returns an API error.
type Check func(ctx context.Context, obj, old runtime.Object) error

// Checks returns the checks that keep users from granting what they do not have, by the resource that is written.
func Checks(auth authorizer.UnconditionalAuthorizer, roles *Authorizer) map[schema.GroupResource]Check {
	c := &checker{auth: auth, roles: roles}
	return map[schema.GroupResource]Check{
		rbacv1.Resource("roles"):               c.role,
		rbacv1.Resource("clusterroles"):        c.clusterRole,
		rbacv1.Resource("rolebindings"):        c.roleBinding,
		rbacv1.Resource("clusterrolebindings"): c.clusterRoleBinding,
	}
}

type checker struct {
	auth  authorizer.UnconditionalAuthorizer
	roles *Authorizer
}

// everything is what only a cluster admin has.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

func (c *checker) role(ctx context.Context, obj, old runtime.Object) error {
	role := obj.(*rbacv1.Role)
	if old != nil && OnlyGarbageCollection(obj, old) {
		return nil
	}
	return c.mayHold(ctx, rbacv1.Resource("roles"), role.Name, role.Rules)
}

func (c *checker) clusterRole(ctx context.Context, obj, old runtime.Object) error {
	role := obj.(*rbacv1.ClusterRole)
	if old != nil && OnlyGarbageCollection(obj, old) {
		return nil
	}
	gr := rbacv1.Resource("clusterroles")
	if err := c.mayHold(ctx, gr, role.Name, role.Rules); err != nil {
		return err
	}
	if !aggregates(role) {
		return nil
	}
	if before, ok := old.(*rbacv1.ClusterRole); ok && equality.Semantic.DeepEqual(before.AggregationRule, role.AggregationRule) {
		return nil
	}
	// The rules of an aggregating role are whatever others will ever label, so its author must have every right already.
	if privileged(ctx) || c.authorized(ctx, "escalate", gr, role.Name, "") {
		return nil
	}
	if err := c.covers(ctx, everything); err != nil {
		return apierrors.NewForbidden(gr, role.Name, errors.New("must have cluster-admin privileges to use an aggregationRule"))
	}
	return nil
}

func aggregates(role *rbacv1.ClusterRole) bool {
	return role.AggregationRule != nil && len(role.AggregationRule.ClusterRoleSelectors) > 0
}

// mayHold refuses rules that the user has not got, unless the user may escalate.
func (c *checker) mayHold(ctx context.Context, gr schema.GroupResource, name string, rules []rbacv1.PolicyRule) error {
	if privileged(ctx) || c.authorized(ctx, "escalate", gr, name, genericapirequest.NamespaceValue(ctx)) {
		return nil
	}
	if err := c.covers(ctx, rules); err != nil {
		return apierrors.NewForbidden(gr, name, err)
	}
	return nil
}

func (c *checker) roleBinding(ctx context.Context, obj, old runtime.Object) error {
	binding := obj.(*rbacv1.RoleBinding)
	if old != nil && OnlyGarbageCollection(obj, old) {
		return nil
	}
	namespace := binding.Namespace
	if namespace == "" {
		namespace = genericapirequest.NamespaceValue(ctx)
	}
	return c.mayBind(ctx, rbacv1.Resource("rolebindings"), binding.Name, binding.RoleRef, namespace)
}

func (c *checker) clusterRoleBinding(ctx context.Context, obj, old runtime.Object) error {
	binding := obj.(*rbacv1.ClusterRoleBinding)
	if old != nil && OnlyGarbageCollection(obj, old) {
		return nil
	}
	return c.mayBind(ctx, rbacv1.Resource("clusterrolebindings"), binding.Name, binding.RoleRef, "")
}

// mayBind refuses to bind a role whose rules the user has not got, unless the user may bind that role.
func (c *checker) mayBind(ctx context.Context, gr schema.GroupResource, name string, ref rbacv1.RoleRef, namespace string) error {
	role := schema.GroupResource{Group: ref.APIGroup, Resource: "clusterroles"}
	if ref.Kind == "Role" {
		role.Resource = "roles"
	}
	if privileged(ctx) || c.authorized(ctx, "bind", role, ref.Name, namespace) {
		return nil
	}
	rules, err := c.roles.RoleRules(ref, namespace)
	if err != nil {
		return apierrors.NewNotFound(role, ref.Name)
	}
	if err := c.covers(ctx, rules); err != nil {
		return apierrors.NewForbidden(gr, name, err)
	}
	return nil
}

// privileged tells whether the user may grant anything: cluster admins, and the server itself while it starts.
func privileged(ctx context.Context) bool {
	who, ok := genericapirequest.UserFrom(ctx)
	return ok && slices.Contains(who.GetGroups(), user.SystemPrivilegedGroup)
}

func (c *checker) authorized(ctx context.Context, verb string, gr schema.GroupResource, name, namespace string) bool {
	who, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return false
	}
	decision, _, err := c.auth.Authorize(ctx, authorizer.AttributesRecord{
		User: who, Verb: verb, APIGroup: gr.Group, APIVersion: "*", Resource: gr.Resource, Name: name, Namespace: namespace, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}

// covers returns an error that names the rules which the user has not got.
func (c *checker) covers(ctx context.Context, rules []rbacv1.PolicyRule) error {
	who, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return errors.New("no user on context")
	}
	held, err := c.roles.PolicyRules(who, genericapirequest.NamespaceValue(ctx))
	ok, missing := rbacvalidation.Covers(held, rules)
	if ok {
		return nil
	}
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		who.GetName(), who.GetGroups(), strings.Join(describe(missing), "\n"))
	if err != nil {
		text += fmt.Sprintf("; resolution errors: %v", err)
	}
	return errors.New(text)
}

// describe lists rules in short form. Those that differ only in their verbs are one line.
func describe(rules []rbacv1.PolicyRule) []string {
	type key struct{ groups, resources, names, urls string }
	verbs := map[key][]string{}
	for _, rule := range rules {
		k := key{quote(rule.APIGroups), quote(rule.Resources), quote(rule.ResourceNames), quote(rule.NonResourceURLs)}
		for _, verb := range rule.Verbs {
			if !slices.Contains(verbs[k], verb) {
				verbs[k] = append(verbs[k], verb)
			}
		}
	}
	lines := make([]string, 0, len(verbs))
	for k, v := range verbs {
		var parts []string
		for _, part := range []struct{ name, value string }{
			{"APIGroups", k.groups}, {"Resources", k.resources}, {"ResourceNames", k.names}, {"NonResourceURLs", k.urls}, {"Verbs", quote(v)},
		} {
			if part.value != "" {
				parts = append(parts, part.name+":"+part.value)
			}
		}
		lines = append(lines, "{"+strings.Join(parts, ", ")+"}")
	}
	sort.Strings(lines)
	return lines
}

func quote(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.ReplaceAll(fmt.Sprintf("%q", list), `" "`, `", "`)
}

// OnlyGarbageCollection tells whether an update changes nothing but owners and finalizers: a garbage collector that may not
// hold the role's rights must still be able to let the object go.
func OnlyGarbageCollection(obj, old runtime.Object) bool {
	after, before := obj.DeepCopyObject(), old.DeepCopyObject()
	for _, o := range []runtime.Object{after, before} {
		meta := o.(metav1.Object)
		meta.SetOwnerReferences(nil)
		meta.SetFinalizers(nil)
		meta.SetManagedFields(nil)
		meta.SetResourceVersion("")
		meta.SetSelfLink("")
	}
	return equality.Semantic.DeepEqual(after, before)
}
