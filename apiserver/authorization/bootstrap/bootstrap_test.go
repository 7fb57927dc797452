package bootstrap

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes/fake"
)

func TestBindingsReferToRoles(t *testing.T) {
	names := sets.New[string]()
	controllerRoles, controllerBindings := ControllerRoles()
	for _, role := range append(ClusterRoles(), controllerRoles...) {
		if names.Has(role.Name) {
			t.Errorf("%s is there twice", role.Name)
		}
		names.Insert(role.Name)
		for _, rule := range role.Rules {
			if len(rule.Verbs) == 0 || (len(rule.Resources) == 0) == (len(rule.NonResourceURLs) == 0) {
				t.Errorf("%s: malformed rule %v", role.Name, rule)
			}
		}
	}
	for _, binding := range append(ClusterRoleBindings(), controllerBindings...) {
		if !names.Has(binding.RoleRef.Name) {
			t.Errorf("%s refers to the unknown role %s", binding.Name, binding.RoleRef.Name)
		}
	}
	roles := sets.New[string]()
	for _, role := range Roles() {
		roles.Insert(role.Namespace + "/" + role.Name)
	}
	for _, binding := range RoleBindings() {
		if !roles.Has(binding.Namespace + "/" + binding.RoleRef.Name) {
			t.Errorf("%s/%s refers to the unknown role %s", binding.Namespace, binding.Name, binding.RoleRef.Name)
		}
	}
}

func TestEnsureRBAC(t *testing.T) {
	ctx := context.Background()
	client := fake.NewClientset()
	if err := EnsureRBAC(ctx, client); err != nil {
		t.Fatal(err)
	}
	writes := func() int {
		n := 0
		for _, action := range client.Actions() {
			if v := action.GetVerb(); v != "get" && v != "list" {
				n++
			}
		}
		return n
	}
	first := writes()
	if first < 150 {
		t.Errorf("only %d writes on an empty cluster", first)
	}
	if err := EnsureRBAC(ctx, client); err != nil {
		t.Fatal(err)
	}
	if again := writes() - first; again != 0 {
		t.Errorf("%d writes on a complete cluster", again)
	}
	view, err := client.RbacV1().ClusterRoles().Get(ctx, "view", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := len(view.Rules)
	view.Rules = view.Rules[:1]
	if _, err := client.RbacV1().ClusterRoles().Update(ctx, view, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := EnsureRBAC(ctx, client); err != nil {
		t.Fatal(err)
	}
	if view, err = client.RbacV1().ClusterRoles().Get(ctx, "view", metav1.GetOptions{}); err != nil || len(view.Rules) < want {
		t.Errorf("rules that were taken away did not come back: %d of %d, %v", len(view.Rules), want, err)
	}
}
