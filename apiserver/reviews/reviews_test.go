package reviews

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

var alice = &user.DefaultInfo{Name: "alice", Groups: []string{"devs"}, Extra: map[string][]string{"k": {"v"}}}

func create(t *testing.T, storage rest.Storage, namespace string, obj runtime.Object) (runtime.Object, error) {
	t.Helper()
	ctx := genericapirequest.WithUser(genericapirequest.WithNamespace(context.Background(), namespace), alice)
	return storage.(rest.Creater).Create(ctx, obj, nil, &metav1.CreateOptions{})
}

func TestTokenReview(t *testing.T) {
	auth := authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		audiences, _ := authenticator.AudiencesFrom(r.Context())
		switch r.Header.Get("Authorization") {
		case "Bearer good":
			return &authenticator.Response{User: alice, Audiences: audiences.Intersect([]string{"api", "vault"})}, true, nil
		case "Bearer broken":
			return nil, false, errors.New("broken")
		}
		return nil, false, nil
	})
	storage := Authentication(auth, authenticator.Audiences{"api"})["tokenreviews"]
	info := authenticationv1.UserInfo{Username: "alice", Groups: []string{"devs"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}
	cases := map[string]struct {
		spec authenticationv1.TokenReviewSpec
		want authenticationv1.TokenReviewStatus
	}{
		"good":     {authenticationv1.TokenReviewSpec{Token: "good"}, authenticationv1.TokenReviewStatus{Authenticated: true, User: info, Audiences: []string{"api"}}},
		"audience": {authenticationv1.TokenReviewSpec{Token: "good", Audiences: []string{"bank", "vault"}}, authenticationv1.TokenReviewStatus{Authenticated: true, User: info, Audiences: []string{"vault"}}},
		"unknown":  {authenticationv1.TokenReviewSpec{Token: "x"}, authenticationv1.TokenReviewStatus{}},
		"broken":   {authenticationv1.TokenReviewSpec{Token: "broken"}, authenticationv1.TokenReviewStatus{Error: "broken"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			out, err := create(t, storage, "", &authenticationv1.TokenReview{Spec: c.spec})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, out.(*authenticationv1.TokenReview).Status); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := create(t, storage, "", &authenticationv1.TokenReview{}); !apierrors.IsBadRequest(err) {
		t.Errorf("without a token: %v", err)
	}
}

func TestSelfSubjectReview(t *testing.T) {
	out, err := create(t, Authentication(nil, nil)["selfsubjectreviews"], "", &authenticationv1.SelfSubjectReview{})
	if err != nil || out.(*authenticationv1.SelfSubjectReview).Status.UserInfo.Username != "alice" {
		t.Errorf("got %v %v", out, err)
	}
}

// decider allows alice what has verb get, denies what has verb delete, and remembers what it was asked.
type decider struct{ asked authorizer.AttributesRecord }

func (d *decider) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	d.asked = a.(authorizer.AttributesRecord)
	switch {
	case a.GetUser().GetName() == "alice" && a.GetVerb() == "get":
		return authorizer.DecisionAllow, "yes", nil
	case a.GetVerb() == "delete":
		return authorizer.DecisionDeny, "no", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func (d *decider) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: []string{"get"}}}, nil, true, errors.New("partly")
}

func TestAccessReviews(t *testing.T) {
	d := &decider{}
	storages := Authorization(d, d)
	resource := func(verb string) *authorizationv1.ResourceAttributes {
		return &authorizationv1.ResourceAttributes{Verb: verb, Namespace: "ns", Resource: "pods"}
	}
	spec := func(who, verb string) authorizationv1.SubjectAccessReviewSpec {
		return authorizationv1.SubjectAccessReviewSpec{User: who, ResourceAttributes: resource(verb)}
	}
	status := func(obj runtime.Object) authorizationv1.SubjectAccessReviewStatus {
		switch o := obj.(type) {
		case *authorizationv1.SubjectAccessReview:
			return o.Status
		case *authorizationv1.LocalSubjectAccessReview:
			return o.Status
		case *authorizationv1.SelfSubjectAccessReview:
			return o.Status
		}
		return authorizationv1.SubjectAccessReviewStatus{}
	}
	both := spec("alice", "get")
	both.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/x"}
	cases := map[string]struct {
		resource string
		obj      runtime.Object
		want     authorizationv1.SubjectAccessReviewStatus
		refused  func(error) bool
	}{
		"allowed":     {"subjectaccessreviews", &authorizationv1.SubjectAccessReview{Spec: spec("alice", "get")}, authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "yes"}, nil},
		"denied":      {"subjectaccessreviews", &authorizationv1.SubjectAccessReview{Spec: spec("bob", "delete")}, authorizationv1.SubjectAccessReviewStatus{Denied: true, Reason: "no"}, nil},
		"no opinion":  {"subjectaccessreviews", &authorizationv1.SubjectAccessReview{Spec: spec("bob", "get")}, authorizationv1.SubjectAccessReviewStatus{}, nil},
		"path":        {"subjectaccessreviews", &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "alice", NonResourceAttributes: both.NonResourceAttributes}}, authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "yes"}, nil},
		"both":        {"subjectaccessreviews", &authorizationv1.SubjectAccessReview{Spec: both}, authorizationv1.SubjectAccessReviewStatus{}, apierrors.IsInvalid},
		"neither":     {"subjectaccessreviews", &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "alice"}}, authorizationv1.SubjectAccessReviewStatus{}, apierrors.IsInvalid},
		"nobody":      {"subjectaccessreviews", &authorizationv1.SubjectAccessReview{Spec: spec("", "get")}, authorizationv1.SubjectAccessReviewStatus{}, apierrors.IsInvalid},
		"metadata":    {"subjectaccessreviews", &authorizationv1.SubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: spec("alice", "get")}, authorizationv1.SubjectAccessReviewStatus{}, apierrors.IsInvalid},
		"self":        {"selfsubjectaccessreviews", &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: resource("get")}}, authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "yes"}, nil},
		"local":       {"localsubjectaccessreviews", &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: spec("alice", "get")}, authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "yes"}, nil},
		"local, else": {"localsubjectaccessreviews", &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "other"}, Spec: spec("alice", "get")}, authorizationv1.SubjectAccessReviewStatus{}, apierrors.IsInvalid},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			out, err := create(t, storages[c.resource], "ns", c.obj)
			if c.refused != nil {
				if !c.refused(err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, status(out)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSelectorsReachTheAuthorizer(t *testing.T) {
	d := &decider{}
	attributes := &authorizationv1.ResourceAttributes{
		Verb: "list", Resource: "pods",
		FieldSelector: &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{{Key: "spec.nodeName", Operator: "In", Values: []string{"n"}}}},
		LabelSelector: &authorizationv1.LabelSelectorAttributes{RawSelector: "a=b"},
	}
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes}}
	if _, err := create(t, Authorization(d, d)["selfsubjectaccessreviews"], "", review); err != nil {
		t.Fatal(err)
	}
	if got := d.asked.FieldSelectorRequirements; len(got) != 1 || got[0].Field != "spec.nodeName" || got[0].Value != "n" {
		t.Errorf("fields: %v", got)
	}
	if got := d.asked.LabelSelectorRequirements; len(got) != 1 || got[0].Key() != "a" {
		t.Errorf("labels: %v", got)
	}
}

func TestRulesReview(t *testing.T) {
	d := &decider{}
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "ns"}}
	out, err := create(t, Authorization(d, d)["selfsubjectrulesreviews"], "", review)
	if err != nil {
		t.Fatal(err)
	}
	want := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{{Verbs: []string{"get"}}}, NonResourceRules: []authorizationv1.NonResourceRule{},
		Incomplete: true, EvaluationError: "partly",
	}
	if diff := cmp.Diff(want, out.(*authorizationv1.SelfSubjectRulesReview).Status); diff != "" {
		t.Error(diff)
	}
	if _, err := create(t, Authorization(d, d)["selfsubjectrulesreviews"], "", &authorizationv1.SelfSubjectRulesReview{}); !apierrors.IsBadRequest(err) {
		t.Errorf("without a namespace: %v", err)
	}
}
