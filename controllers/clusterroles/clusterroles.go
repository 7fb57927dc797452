// Package clusterroles fills in the rules of ClusterRoles that aggregate others by label.
package clusterroles

import (
	"context"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	roles, err := env.Lister(e, &rbacv1.ClusterRole{})
	if err != nil {
		return err
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		role, ok := roles.Find("", req.Name)
		if !ok || role.AggregationRule == nil {
			return ctrl.Result{}, nil
		}
		rules, err := aggregate(role, roles.All())
		if err != nil || equality.Semantic.DeepEqual(rules, role.Rules) {
			return ctrl.Result{}, err
		}
		changed := role.DeepCopy()
		changed.Rules = rules
		return ctrl.Result{}, client.IgnoreNotFound(e.Client.Update(ctx, changed))
	}
	return e.Controller("clusterrole-aggregation", workers, reconcile,
		env.Mapped(&rbacv1.ClusterRole{}, func(*rbacv1.ClusterRole) []types.NamespacedName {
			var keys []types.NamespacedName
			for _, role := range roles.All() {
				if role.AggregationRule != nil {
					keys = append(keys, types.NamespacedName{Name: role.Name})
				}
			}
			return keys
		}))
}

// aggregate returns the rules of all roles that the aggregation rule selects, in the order of their names and each once.
func aggregate(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	rules := []rbacv1.PolicyRule{}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, other := range sorted {
			if other.Name == role.Name || !selector.Matches(labels.Set(other.Labels)) {
				continue
			}
			for _, rule := range other.Rules {
				if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
