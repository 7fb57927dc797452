package rbac

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// roleSet builds an authorizer over the given objects without any API server.
func roleSet(t *testing.T, objects ...runtime.Object) *Authorizer {
	t.Helper()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	a, err := New(factory)
	if err != nil {
		t.Fatal(err)
	}
	api := factory.Rbac().V1()
	for _, obj := range objects {
		var err error
		switch o := obj.(type) {
		case *rbacv1.Role:
			err = api.Roles().Informer().GetIndexer().Add(o)
		case *rbacv1.ClusterRole:
			err = api.ClusterRoles().Informer().GetIndexer().Add(o)
		case *rbacv1.RoleBinding:
			err = api.RoleBindings().Informer().GetIndexer().Add(o)
		case *rbacv1.ClusterRoleBinding:
			err = api.ClusterRoleBindings().Informer().GetIndexer().Add(o)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func rule(verb, group, resource string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
}

func bindCluster(name, role string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
}

func bind(namespace, name, kind, role string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
	}
}

var (
	alice = rbacv1.Subject{Kind: "User", Name: "alice"}
	devs  = rbacv1.Subject{Kind: "Group", Name: "devs"}
)

func TestAuthorize(t *testing.T) {
	a := roleSet(t,
		clusterRole("reader", rule("get", "", "pods"), rule("get", "", "pods/log")),
		clusterRole("scaler", rule("update", "*", "*/scale")),
		clusterRole("one", rule("get", "", "secrets", "mine")),
		clusterRole("paths", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/healthz", "/metrics/*"}}),
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "writer"}, Rules: []rbacv1.PolicyRule{rule("*", "apps", "*")}},
		bindCluster("readers", "reader", devs),
		bindCluster("scalers", "scaler", alice),
		bindCluster("ones", "one", alice),
		bindCluster("pathers", "paths", rbacv1.Subject{Kind: "Group", Name: "system:unauthenticated"}),
		bindCluster("lost", "gone", rbacv1.Subject{Kind: "User", Name: "bob"}),
		bind("a", "writers", "Role", "writer", rbacv1.Subject{Kind: "ServiceAccount", Name: "builder"}),
		bind("a", "others", "Role", "writer", rbacv1.Subject{Kind: "ServiceAccount", Namespace: "b", Name: "builder"}),
	)
	who := func(name string, groups ...string) user.Info { return &user.DefaultInfo{Name: name, Groups: groups} }
	resource := func(u user.Info, verb, group, resource, sub, namespace, name string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{User: u, Verb: verb, APIGroup: group, Resource: resource, Subresource: sub, Namespace: namespace, Name: name, ResourceRequest: true}
	}
	cases := map[string]struct {
		request authorizer.AttributesRecord
		want    authorizer.Decision
		reason  string
	}{
		"group, every namespace": {
			resource(who("x", "devs"), "get", "", "pods", "", "any", "p"), authorizer.DecisionAllow,
			`RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "devs"`,
		},
		"other verb":           {resource(who("x", "devs"), "delete", "", "pods", "", "any", "p"), authorizer.DecisionNoOpinion, ""},
		"named subresource":    {resource(who("x", "devs"), "get", "", "pods", "log", "any", "p"), authorizer.DecisionAllow, `RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "devs"`},
		"other subresource":    {resource(who("x", "devs"), "get", "", "pods", "exec", "any", "p"), authorizer.DecisionNoOpinion, ""},
		"scale of anything":    {resource(who("alice"), "update", "apps", "deployments", "scale", "n", "d"), authorizer.DecisionAllow, `RBAC: allowed by ClusterRoleBinding "scalers" of ClusterRole "scaler" to User "alice"`},
		"not the main one":     {resource(who("alice"), "update", "apps", "deployments", "", "n", "d"), authorizer.DecisionNoOpinion, ""},
		"by name":              {resource(who("alice"), "get", "", "secrets", "", "n", "mine"), authorizer.DecisionAllow, `RBAC: allowed by ClusterRoleBinding "ones" of ClusterRole "one" to User "alice"`},
		"by another name":      {resource(who("alice"), "get", "", "secrets", "", "n", "yours"), authorizer.DecisionNoOpinion, ""},
		"account of namespace": {resource(who("system:serviceaccount:a:builder"), "create", "apps", "deployments", "", "a", ""), authorizer.DecisionAllow, `RBAC: allowed by RoleBinding "writers/a" of Role "writer" to ServiceAccount "builder/a"`},
		"account of other":     {resource(who("system:serviceaccount:b:builder"), "create", "apps", "deployments", "", "a", ""), authorizer.DecisionAllow, `RBAC: allowed by RoleBinding "others/a" of Role "writer" to ServiceAccount "builder/b"`},
		"not elsewhere":        {resource(who("system:serviceaccount:a:builder"), "create", "apps", "deployments", "", "b", ""), authorizer.DecisionNoOpinion, ""},
		"path":                 {authorizer.AttributesRecord{User: who("system:anonymous", "system:unauthenticated"), Verb: "get", Path: "/metrics/slis"}, authorizer.DecisionAllow, `RBAC: allowed by ClusterRoleBinding "pathers" of ClusterRole "paths" to Group "system:unauthenticated"`},
		"path outside":         {authorizer.AttributesRecord{User: who("system:anonymous", "system:unauthenticated"), Verb: "get", Path: "/metricsx"}, authorizer.DecisionNoOpinion, ""},
		"missing role is told": {resource(who("bob"), "get", "", "pods", "", "n", "p"), authorizer.DecisionNoOpinion, `RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			decision, reason, err := a.Authorize(context.Background(), c.request)
			if err != nil || decision != c.want {
				t.Fatalf("got %v (%v), want %v", decision, err, c.want)
			}
			if diff := cmp.Diff(c.reason, reason); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEscalation(t *testing.T) {
	a := roleSet(t,
		clusterRole("reader", rule("get", "", "pods")),
		clusterRole("admin", rule("*", "*", "*")),
		clusterRole("binder", rule("bind", "rbac.authorization.k8s.io", "clusterroles", "admin")),
		clusterRole("escalator", rule("escalate", "rbac.authorization.k8s.io", "clusterroles")),
		bindCluster("r", "reader", devs),
		bindCluster("b", "binder", rbacv1.Subject{Kind: "User", Name: "binder"}),
		bindCluster("e", "escalator", rbacv1.Subject{Kind: "User", Name: "escalator"}),
	)
	checks := Checks(a, a)
	own, more := clusterRole("new", rule("get", "", "pods")), clusterRole("new", rule("get", "", "secrets"))
	freed := more.DeepCopy()
	freed.OwnerReferences = []metav1.OwnerReference{{Name: "gone"}}
	sum := clusterRole("sum")
	sum.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}
	cases := map[string]struct {
		user     string
		groups   []string
		resource string
		obj, old runtime.Object
		refused  func(error) bool // nil: allowed
	}{
		"what one has":             {"x", []string{"devs"}, "clusterroles", own, nil, nil},
		"more than one has":        {"x", []string{"devs"}, "clusterroles", more, nil, apierrors.IsForbidden},
		"only owners change":       {"x", []string{"devs"}, "clusterroles", more, freed, nil},
		"may escalate":             {"escalator", nil, "clusterroles", more, nil, nil},
		"admin":                    {"root", []string{"system:masters"}, "clusterroles", more, nil, nil},
		"aggregation":              {"x", []string{"devs"}, "clusterroles", sum, nil, apierrors.IsForbidden},
		"bind what one has":        {"x", []string{"devs"}, "clusterrolebindings", bindCluster("n", "reader", alice), nil, nil},
		"bind more":                {"x", []string{"devs"}, "clusterrolebindings", bindCluster("n", "admin", alice), nil, apierrors.IsForbidden},
		"may bind":                 {"binder", nil, "clusterrolebindings", bindCluster("n", "admin", alice), nil, nil},
		"may bind not that":        {"binder", nil, "clusterrolebindings", bindCluster("n", "reader", alice), nil, apierrors.IsForbidden},
		"unknown role":             {"x", []string{"devs"}, "clusterrolebindings", bindCluster("n", "nothing", alice), nil, apierrors.IsNotFound},
		"bind in namespace":        {"x", []string{"devs"}, "rolebindings", bind("a", "n", "ClusterRole", "reader", alice), nil, nil},
		"bind more in namespace":   {"x", []string{"devs"}, "rolebindings", bind("a", "n", "ClusterRole", "admin", alice), nil, apierrors.IsForbidden},
		"nobody on the context is": {"", nil, "clusterroles", more, nil, apierrors.IsForbidden},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			ctx := genericapirequest.WithUser(context.Background(), &user.DefaultInfo{Name: c.user, Groups: c.groups})
			err := checks[rbacv1.Resource(c.resource)](ctx, c.obj, c.old)
			if (c.refused == nil) != (err == nil) || (err != nil && !c.refused(err)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestDescribe(t *testing.T) {
	got := describe([]rbacv1.PolicyRule{rule("get", "", "pods"), rule("list", "", "pods"), {Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}})
	want := []string{`{APIGroups:[""], Resources:["pods"], Verbs:["get", "list"]}`, `{NonResourceURLs:["/x"], Verbs:["get"]}`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
