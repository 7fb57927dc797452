// Package rbac authorizes by roles and their bindings. Bindings are indexed by their subjects, so that a request looks only at
// those of its user and the user's groups, however many there are.
package rbac

import (
	"context"
	"errors"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Authorizer decides by the roles in its informers.
type Authorizer struct {
	roles           rbaclisters.RoleLister
	clusterRoles    rbaclisters.ClusterRoleLister
	bindings        cache.Indexer // RoleBindings by subject
	clusterBindings cache.Indexer // ClusterRoleBindings by subject
}

var (
	_ authorizer.Authorizer   = &Authorizer{}
	_ authorizer.RuleResolver = &Authorizer{}
)

// New registers what it needs with the factory; the caller starts it.
func New(factory informers.SharedInformerFactory) (*Authorizer, error) {
	api := factory.Rbac().V1()
	if err := api.RoleBindings().Informer().AddIndexers(cache.Indexers{bySubject: indexRoleBinding}); err != nil {
		return nil, fmt.Errorf("index role bindings: %w", err)
	}
	if err := api.ClusterRoleBindings().Informer().AddIndexers(cache.Indexers{bySubject: indexClusterRoleBinding}); err != nil {
		return nil, fmt.Errorf("index cluster role bindings: %w", err)
	}
	return &Authorizer{
		roles: api.Roles().Lister(), clusterRoles: api.ClusterRoles().Lister(),
		bindings: api.RoleBindings().Informer().GetIndexer(), clusterBindings: api.ClusterRoleBindings().Informer().GetIndexer(),
	}, nil
}

// Authorize allows a request that some rule of the user's roles covers, and has no opinion otherwise.
func (a *Authorizer) Authorize(ctx context.Context, request authorizer.Attributes) (authorizer.Decision, string, error) {
	var errs []error
	allowedBy := ""
	a.visit(request.GetUser(), request.GetNamespace(), func(grant grant, rule *rbacv1.PolicyRule, err error) bool {
		if err != nil {
			errs = append(errs, err)
		}
		if rule != nil && allows(request, rule) {
			allowedBy = grant.String()
			return false
		}
		return true
	})
	if allowedBy != "" {
		return authorizer.DecisionAllow, "RBAC: allowed by " + allowedBy, nil
	}
	klog.FromContext(ctx).V(5).Info("RBAC: no rule allows the request", "user", request.GetUser().GetName(), "verb", request.GetVerb(),
		"resource", request.GetResource(), "namespace", request.GetNamespace(), "path", request.GetPath())
	if len(errs) > 0 {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(errs)), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// ConditionsAwareAuthorize is Authorize: RBAC knows no conditions.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, request authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, request))
}

// EvaluateConditions is never reached with a condition of ours.
func (a *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor lists what the user may do, in all namespaces and in the given one.
func (a *Authorizer) RulesFor(_ context.Context, who user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var others []authorizer.NonResourceRuleInfo
	rules, err := a.PolicyRules(who, namespace)
	for i := range rules {
		rule := &rules[i]
		if len(rule.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		if len(rule.NonResourceURLs) > 0 {
			others = append(others, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	return resources, others, false, err
}

// PolicyRules returns every rule that applies to the user in the namespace (or, with "", everywhere). Rules come back together
// with an error when some role is missing.
func (a *Authorizer) PolicyRules(who user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	var errs []error
	a.visit(who, namespace, func(_ grant, rule *rbacv1.PolicyRule, err error) bool {
		if err != nil {
			errs = append(errs, err)
		}
		if rule != nil {
			rules = append(rules, *rule)
		}
		return true
	})
	return rules, utilerrors.NewAggregate(errs)
}

// RoleRules returns the rules of the role that a binding in the namespace refers to.
func (a *Authorizer) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		role, err := a.roles.Roles(namespace).Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case "ClusterRole":
		role, err := a.clusterRoles.Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

// visit shows every rule that applies to the user until yield returns false: those bound in the whole cluster, then those bound
// in the namespace. A role that cannot be found is shown as an error.
func (a *Authorizer) visit(who user.Info, namespace string, yield func(grant, *rbacv1.PolicyRule, error) bool) {
	subjects := subjectsOf(who)
	for _, subject := range subjects {
		for _, found := range lookup(a.clusterBindings, subject.key("")) {
			binding := found.(*rbacv1.ClusterRoleBinding)
			g := grant{kind: "ClusterRoleBinding", name: binding.Name, role: binding.RoleRef, subject: subject}
			if !a.visitRole(g, "", yield) {
				return
			}
		}
	}
	if namespace == "" {
		return
	}
	for _, subject := range subjects {
		for _, found := range lookup(a.bindings, subject.key(namespace)) {
			binding := found.(*rbacv1.RoleBinding)
			g := grant{kind: "RoleBinding", name: binding.Name + "/" + binding.Namespace, role: binding.RoleRef, subject: subject}
			if !a.visitRole(g, namespace, yield) {
				return
			}
		}
	}
}

func (a *Authorizer) visitRole(g grant, namespace string, yield func(grant, *rbacv1.PolicyRule, error) bool) bool {
	rules, err := a.RoleRules(g.role, namespace)
	if err != nil {
		return yield(grant{}, nil, err)
	}
	for i := range rules {
		if !yield(g, &rules[i], nil) {
			return false
		}
	}
	return true
}

func lookup(index cache.Indexer, key string) []any {
	found, err := index.ByIndex(bySubject, key)
	if err != nil { // only if the index did not exist, and New has made it
		panic(errors.Join(errors.New("index of RBAC bindings is missing"), err))
	}
	return found
}

// grant says which binding gives a rule to whom.
type grant struct {
	kind, name string
	role       rbacv1.RoleRef
	subject    subject
}

func (g grant) String() string {
	return fmt.Sprintf("%s %q of %s %q to %s", g.kind, g.name, g.role.Kind, g.role.Name, g.subject)
}
