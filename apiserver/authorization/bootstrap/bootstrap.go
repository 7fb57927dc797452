// Package bootstrap holds the roles, bindings and priority classes that every cluster has, and brings them into being when the
// server starts. What an administrator added is kept; what is missing is added again.
package bootstrap

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// parallel bounds the writes at once: enough to hide the latency of the store, few enough to leave it to others.
const parallel = 8

// EnsureRBAC creates or completes the default roles and bindings. The four kinds are listed once, so a restart reads four lists
// and writes nothing.
func EnsureRBAC(ctx context.Context, client kubernetes.Interface) error {
	api := client.RbacV1()
	clusterRoles, clusterBindings := ClusterRoles(), ClusterRoleBindings()
	roles, bindings := ControllerRoles()
	clusterRoles, clusterBindings = append(clusterRoles, roles...), append(clusterBindings, bindings...)

	have, err := existing(ctx, client)
	if err != nil {
		return err
	}
	group, _ := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range clusterRoles {
		owner := reconciliation.ClusterRoleRuleOwner{ClusterRole: &clusterRoles[i]}
		ensureRole(group, owner, owners{have.clusterRoles, reconciliation.ClusterRoleModifier{Client: api.ClusterRoles()}})
	}
	for i := range clusterBindings {
		binding := reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &clusterBindings[i]}
		ensureBinding(group, binding, binders{have.clusterBindings, reconciliation.ClusterRoleBindingClientAdapter{Client: api.ClusterRoleBindings()}})
	}
	namespaced := Roles()
	for i := range namespaced {
		owner := reconciliation.RoleRuleOwner{Role: &namespaced[i]}
		ensureRole(group, owner, owners{have.roles, reconciliation.RoleModifier{Client: api, NamespaceClient: client.CoreV1().Namespaces()}})
	}
	namespacedBindings := RoleBindings()
	for i := range namespacedBindings {
		binding := reconciliation.RoleBindingAdapter{RoleBinding: &namespacedBindings[i]}
		ensureBinding(group, binding, binders{have.bindings, reconciliation.RoleBindingClientAdapter{Client: api, NamespaceClient: client.CoreV1().Namespaces()}})
	}
	return group.Wait()
}

func ensureRole(group *errgroup.Group, owner reconciliation.RuleOwner, client reconciliation.RuleOwnerModifier) {
	group.Go(func() error {
		if _, err := (&reconciliation.ReconcileRoleOptions{Role: owner, Client: client, Confirm: true}).Run(); err != nil {
			return fmt.Errorf("reconcile role %s: %w", owner.GetName(), err)
		}
		return nil
	})
}

func ensureBinding(group *errgroup.Group, binding reconciliation.RoleBinding, client reconciliation.RoleBindingModifier) {
	group.Go(func() error {
		if _, err := (&reconciliation.ReconcileRoleBindingOptions{RoleBinding: binding, Client: client, Confirm: true}).Run(); err != nil {
			return fmt.Errorf("reconcile role binding %s: %w", binding.GetName(), err)
		}
		return nil
	})
}

// stock is what there is, by namespace/name.
type stock struct {
	roles, clusterRoles       map[types.NamespacedName]reconciliation.RuleOwner
	bindings, clusterBindings map[types.NamespacedName]reconciliation.RoleBinding
}

func existing(ctx context.Context, client kubernetes.Interface) (stock, error) {
	s := stock{
		roles: map[types.NamespacedName]reconciliation.RuleOwner{}, clusterRoles: map[types.NamespacedName]reconciliation.RuleOwner{},
		bindings: map[types.NamespacedName]reconciliation.RoleBinding{}, clusterBindings: map[types.NamespacedName]reconciliation.RoleBinding{},
	}
	api := client.RbacV1()
	defaults := metav1.ListOptions{}
	clusterRoles, err := api.ClusterRoles().List(ctx, defaults)
	if err != nil {
		return s, fmt.Errorf("list cluster roles: %w", err)
	}
	for i := range clusterRoles.Items {
		s.clusterRoles[types.NamespacedName{Name: clusterRoles.Items[i].Name}] = reconciliation.ClusterRoleRuleOwner{ClusterRole: &clusterRoles.Items[i]}
	}
	clusterBindings, err := api.ClusterRoleBindings().List(ctx, defaults)
	if err != nil {
		return s, fmt.Errorf("list cluster role bindings: %w", err)
	}
	for i := range clusterBindings.Items {
		s.clusterBindings[types.NamespacedName{Name: clusterBindings.Items[i].Name}] = reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &clusterBindings.Items[i]}
	}
	for _, namespace := range []string{metav1.NamespaceSystem, metav1.NamespacePublic} {
		roles, err := api.Roles(namespace).List(ctx, defaults)
		if err != nil {
			return s, fmt.Errorf("list roles: %w", err)
		}
		for i := range roles.Items {
			s.roles[types.NamespacedName{Namespace: namespace, Name: roles.Items[i].Name}] = reconciliation.RoleRuleOwner{Role: &roles.Items[i]}
		}
		bindings, err := api.RoleBindings(namespace).List(ctx, defaults)
		if err != nil {
			return s, fmt.Errorf("list role bindings: %w", err)
		}
		for i := range bindings.Items {
			s.bindings[types.NamespacedName{Namespace: namespace, Name: bindings.Items[i].Name}] = reconciliation.RoleBindingAdapter{RoleBinding: &bindings.Items[i]}
		}
	}
	return s, nil
}

// owners answers Get from the list that was read before. What another server has made or changed since then is of the same policy
// and left as it is; the next start looks again.
type owners struct {
	known map[types.NamespacedName]reconciliation.RuleOwner
	reconciliation.RuleOwnerModifier
}

func (o owners) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	found, ok := o.known[types.NamespacedName{Namespace: namespace, Name: name}]
	if !ok {
		return nil, apierrors.NewNotFound(rbacv1.Resource("roles"), name)
	}
	return found, nil
}

func (o owners) Create(role reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	created, err := o.RuleOwnerModifier.Create(role)
	if apierrors.IsAlreadyExists(err) {
		return role, nil
	}
	return created, err
}

func (o owners) Update(role reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	updated, err := o.RuleOwnerModifier.Update(role)
	if apierrors.IsConflict(err) {
		return role, nil
	}
	return updated, err
}

// binders is owners for bindings.
type binders struct {
	known map[types.NamespacedName]reconciliation.RoleBinding
	reconciliation.RoleBindingModifier
}

func (b binders) Get(namespace, name string) (reconciliation.RoleBinding, error) {
	found, ok := b.known[types.NamespacedName{Namespace: namespace, Name: name}]
	if !ok {
		return nil, apierrors.NewNotFound(rbacv1.Resource("rolebindings"), name)
	}
	return found, nil
}

func (b binders) Create(binding reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	created, err := b.RoleBindingModifier.Create(binding)
	if apierrors.IsAlreadyExists(err) {
		return binding, nil
	}
	return created, err
}

func (b binders) Update(binding reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	updated, err := b.RoleBindingModifier.Update(binding)
	if apierrors.IsConflict(err) {
		return binding, nil
	}
	return updated, err
}

// EnsurePriorityClasses creates system-cluster-critical and system-node-critical.
func EnsurePriorityClasses(ctx context.Context, client kubernetes.Interface) error {
	for _, class := range PriorityClasses() {
		if _, err := client.SchedulingV1().PriorityClasses().Get(ctx, class.Name, metav1.GetOptions{}); err == nil {
			continue
		}
		_, err := client.SchedulingV1().PriorityClasses().Create(ctx, &class, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create priority class %s: %w", class.Name, err)
		}
	}
	return nil
}

// PriorityClasses are the classes that the system's own pods use.
func PriorityClasses() []schedulingv1.PriorityClass {
	return []schedulingv1.PriorityClass{
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-node-critical"},
			Value:       2000001000,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-cluster-critical"},
			Value:       2000000000,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
	}
}
