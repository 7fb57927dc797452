package server_test

import (
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestClaimStatusAuthorization: who may write resourceclaims/status may allocate only with resourceclaims/binding, tell of a driver's
// devices only with resourceclaims/driver of its name (KEP-4817), and give admin access only in namespaces for it (KEP-5018).
func TestClaimStatusAuthorization(t *testing.T) {
	t.Parallel()
	s, ns, ctx := shared, namespace(t), t.Context()
	grant := func(user string, rules ...rbacv1.PolicyRule) {
		for i := range rules {
			rules[i].APIGroups = []string{"resource.k8s.io"}
		}
		must(s.client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules}, metav1.CreateOptions{}))(t)
		must(s.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}},
		}, metav1.CreateOptions{}))(t)
		for _, rule := range rules { // the authorizer reads roles from a cache
			resource, subresource, _ := strings.Cut(rule.Resources[0], "/")
			attributes := &authorizationv1.ResourceAttributes{Namespace: ns, Verb: rule.Verbs[0], Group: "resource.k8s.io", Resource: resource, Subresource: subresource}
			if len(rule.ResourceNames) > 0 {
				attributes.Name = rule.ResourceNames[0]
			}
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: attributes}}
			eventually(t, "the right "+rule.Resources[0]+" of "+user, func() bool {
				return must(s.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{}))(t).Status.Allowed
			})
		}
	}
	status := rbacv1.PolicyRule{Verbs: []string{"patch"}, Resources: []string{"resourceclaims/status"}}
	grant("claim-plain", status)
	grant("claim-binder", status, rbacv1.PolicyRule{Verbs: []string{"patch"}, Resources: []string{"resourceclaims/binding"}})
	grant("claim-driver", status, rbacv1.PolicyRule{Verbs: []string{"arbitrary-node:patch"}, Resources: []string{"resourceclaims/driver"}, ResourceNames: []string{"a.example.com"}})
	collection := "/apis/resource.k8s.io/v1/namespaces/" + ns + "/resourceclaims"
	code, body := s.raw(t, "POST", collection, "application/json", "application/json", `{"metadata":{"name":"c"},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"d"}}]}}}`)
	if code != 201 {
		t.Fatal(body)
	}
	allocation := func(admin string) string {
		result := func(driver string) string {
			return `{"request":"r","driver":"` + driver + `","pool":"p","device":"d"` + admin + `}`
		}
		return `{"status":{"allocation":{"devices":{"results":[` + result("a.example.com") + "," + result("b.example.com") + `]}}}}`
	}
	devices := func(driver string) string {
		return `{"status":{"devices":[{"driver":"` + driver + `","pool":"p","device":"d"}]}}`
	}
	for _, c := range []struct{ user, patch, want string }{ // want is part of the refusal; empty: none
		{"claim-plain", allocation(""), `requires resource="resourceclaims/binding", verb="patch"`},
		{"claim-binder", allocation(`,"adminAccess":true`), "admin access to devices requires"},
		{"claim-binder", allocation(""), ""},
		{"claim-plain", devices("a.example.com"), `requires resource="resourceclaims/driver", verb="[arbitrary-node:patch]"`},
		{"claim-driver", devices("b.example.com"), `requires resource="resourceclaims/driver"`},
		{"claim-driver", devices("a.example.com"), ""},
		{"claim-plain", `{"status":{}}`, ""}, // nothing changes
	} {
		_, err := s.impersonate(t, c.user).ResourceV1().ResourceClaims(ns).Patch(ctx, "c", types.MergePatchType, []byte(c.patch), metav1.PatchOptions{}, "status")
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s sends %s: got %v, want %q", c.user, c.patch, err, c.want)
		}
	}
}
