package server_test

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/apiserver/server"
)

// accessWebhook allows users named allowed-*, denies those named denied-*, and has no opinion on others.
type accessWebhook struct {
	*httptest.Server
	mu     sync.Mutex
	broken bool
	asked  []string // users
}

func newAccessWebhook(t *testing.T) *accessWebhook {
	t.Helper()
	w := &accessWebhook{}
	w.Server = httptest.NewTLSServer(http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(in.Body).Decode(&review); err != nil || review.APIVersion != "authorization.k8s.io/v1" {
			t.Errorf("%v %s", err, review.APIVersion)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked = append(w.asked, review.Spec.User)
		if w.broken {
			http.Error(out, "broken", http.StatusInternalServerError)
			return
		}
		review.Status = authorizationv1.SubjectAccessReviewStatus{
			Allowed: strings.HasPrefix(review.Spec.User, "allowed-"), Denied: strings.HasPrefix(review.Spec.User, "denied-"), Reason: "the hook says so",
		}
		_ = json.NewEncoder(out).Encode(review)
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *accessWebhook) count(user string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, u := range w.asked {
		if u == user {
			n++
		}
	}
	return n
}

func (w *accessWebhook) breakDown() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = true
}

func TestStructuredAuthorization(t *testing.T) {
	t.Parallel()
	hook := newAccessWebhook(t)
	connection := kubeconfig(t, hook.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw}))
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n"
	entry := func(policy, condition string) string {
		return `- type: Webhook
  name: hook
  webhook:
    timeout: 3s
    authorizedTTL: 1m
    unauthorizedTTL: 1s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: ` + policy + `
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: '` + connection + `'}
    matchConditions: [{expression: "` + condition + `"}]
`
	}
	const others = "- {type: Node, name: node}\n- {type: RBAC, name: rbac}\n"
	const configMapsOnly = "has(request.resourceAttributes) && request.resourceAttributes.resource == 'configmaps'"
	config := file(t, "authorization.yaml", head+entry("Deny", configMapsOnly)+others)
	s := newServer(t, t.TempDir(), func(o *server.Options) { o.Authorization.Modes, o.Authorization.ConfigFile = nil, config })

	// may asks in the three ways in which a decision shows: a request, a review about oneself, a review about another.
	may := func(user, resource string) bool {
		t.Helper()
		attributes := &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "list", Version: "v1", Resource: resource}
		other := must(s.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: attributes},
		}, metav1.CreateOptions{}))(t)
		local := must(s.client.AuthorizationV1().LocalSubjectAccessReviews("default").Create(t.Context(), &authorizationv1.LocalSubjectAccessReview{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: attributes},
		}, metav1.CreateOptions{}))(t)
		client := s.impersonate(t, user, "system:authenticated")
		own := must(client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes},
		}, metav1.CreateOptions{}))(t)
		err := client.CoreV1().RESTClient().Get().Namespace("default").Resource(resource).Do(t.Context()).Error()
		if err != nil && !apierrors.IsForbidden(err) {
			t.Errorf("%s lists %s: %v", user, resource, err)
		}
		if allowed := err == nil; other.Status.Allowed != allowed || local.Status.Allowed != allowed || own.Status.Allowed != allowed {
			t.Errorf("%s lists %s: %v, but the reviews say %v %v %v", user, resource, err, other.Status, local.Status, own.Status)
		}
		return err == nil
	}
	bindReader(t, s, "denied-ann", "ben")
	for _, c := range []struct {
		user, resource string
		want           bool
	}{
		{"allowed-al", "configmaps", true},
		{"allowed-al", "pods", false},         // the condition keeps the webhook out of it
		{"denied-ann", "configmaps", false},   // RBAC is not asked after a denial
		{"denied-ann", "pods", true},          // RBAC
		{"ben", "configmaps", true},           // no opinion: RBAC
		{"somebody", "configmaps", false},     // nobody has an opinion
		{"system:admin", "configmaps", false}, // a name is no group
	} {
		if got := may(c.user, c.resource); got != c.want {
			t.Errorf("%s may list %s: %v, want %v", c.user, c.resource, got, c.want)
		}
	}
	if n := hook.count("allowed-al"); n != 2 { // with and without the group that comes with every request
		t.Errorf("the webhook was asked %d times about allowed-al, its answers should have been kept", n)
	}

	hook.breakDown()
	review := must(s.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "ben2", ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "list", Resource: "configmaps"}},
	}, metav1.CreateOptions{}))(t)
	if !review.Status.Denied || review.Status.EvaluationError == "" {
		t.Errorf("a broken webhook with failurePolicy Deny: %+v", review.Status)
	}
	bindReader(t, s, "ben3")
	write(t, config, head+entry("NoOpinion", configMapsOnly)+others)
	eventually(t, "the new failure policy", func() bool {
		_, err := s.impersonate(t, "ben3", "system:authenticated").CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
	// In another order RBAC's grant comes before the webhook.
	before := hook.count("ben")
	write(t, config, head+others+entry("Deny", configMapsOnly))
	eventually(t, "the new order", func() bool { return may("denied-ann", "configmaps") })
	if !may("ben", "configmaps") || hook.count("ben") != before {
		t.Error("the webhook is asked about what RBAC grants")
	}
	write(t, config, head+"- {type: Nonsense, name: x}\n")
	eventually(t, "the failed reload in the metrics", func() bool {
		_, metrics := s.raw(t, http.MethodGet, "/metrics", "", "", "")
		return strings.Contains(metrics, `apiserver_authorization_config_controller_automatic_reloads_total{`) && strings.Contains(metrics, `status="failure"`)
	})
	_, metrics := s.raw(t, http.MethodGet, "/metrics", "", "", "")
	for _, want := range []string{`apiserver_authorization_decisions_total{decision="allowed",name="rbac",type="RBAC"}`, `apiserver_authorization_webhook_evaluations_total`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no metric %s", want)
		}
	}
}

// bindReader lets users read everything in the namespace default, by RBAC.
func bindReader(t *testing.T, s *testServer, users ...string) {
	t.Helper()
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "reader-"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
	}
	for _, user := range users {
		binding.Subjects = append(binding.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "User", Name: user})
	}
	must(s.client.RbacV1().RoleBindings("default").Create(t.Context(), binding, metav1.CreateOptions{}))(t)
	last := users[len(users)-1]
	eventually(t, "the binding in force", func() bool {
		review := must(s.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: last, ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "list", Version: "v1", Resource: "pods"}},
		}, metav1.CreateOptions{}))(t)
		return review.Status.Allowed
	})
}

func rule(verb, group, resource string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
}

func TestNobodyGrantsWhatTheyDoNotHave(t *testing.T) {
	ctx, ns, rbac := t.Context(), namespace(t), shared.client.RbacV1()
	must(rbac.Roles(ns).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "manager"}, Rules: []rbacv1.PolicyRule{
		rule("*", "rbac.authorization.k8s.io", "rolebindings"), rule("create", "rbac.authorization.k8s.io", "roles"),
		rule("get", "", "pods"), rule("bind", "rbac.authorization.k8s.io", "clusterroles", "edit"),
	}}, metav1.CreateOptions{}))(t)
	must(rbac.RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "manager"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "manager"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "manager"}},
	}, metav1.CreateOptions{}))(t)
	manager := shared.impersonate(t, "manager", "system:authenticated").RbacV1()
	grant := func(name string, rules ...rbacv1.PolicyRule) error {
		_, err := manager.Roles(ns).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{})
		return err
	}
	eventually(t, "the manager's rights", func() bool { return grant("covered", rule("get", "", "pods")) == nil })
	err := grant("more", rule("get", "", "pods"), rule("delete", "", "pods"))
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "is attempting to grant RBAC permissions not currently held") {
		t.Errorf("a role beyond one's own rights: %v", err)
	}
	bind := func(role string) error {
		_, err := manager.RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "manager"}},
		}, metav1.CreateOptions{})
		return err
	}
	if err := bind("admin"); !apierrors.IsForbidden(err) {
		t.Errorf("a binding beyond one's own rights: %v", err)
	}
	if err := bind("edit"); err != nil {
		t.Errorf("a binding that one may make by the verb bind: %v", err)
	}
	rules := must(shared.impersonate(t, "manager", "system:authenticated").AuthorizationV1().SelfSubjectRulesReviews().Create(ctx,
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: ns}}, metav1.CreateOptions{}))(t)
	if !slices.ContainsFunc(rules.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool { return slices.Contains(r.Verbs, "bind") }) {
		t.Errorf("the manager's rules: %+v", rules.Status)
	}
}

func TestNodeIsRefusedInUpstreamsWords(t *testing.T) {
	node := shared.impersonate(t, "system:node:n", "system:nodes", "system:authenticated")
	_, err := node.CoreV1().Secrets("default").Get(t.Context(), "x", metav1.GetOptions{})
	const want = `secrets "x" is forbidden: User "system:node:n" cannot get resource "secrets" in API group "" in the namespace "default": ` +
		`node: no relationship found between node 'n' and this object`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// TestDefaultsAreReconciledAtTheStart tampers with roles while a server runs and starts another on the same data.
func TestDefaultsAreReconciledAtTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, dir, nil)
	ctx, roles := t.Context(), s.client.RbacV1().ClusterRoles()
	own := rule("get", "", "own")
	change := func(name string, rules []rbacv1.PolicyRule, autoUpdate string) {
		t.Helper()
		role := must(roles.Get(ctx, name, metav1.GetOptions{}))(t)
		if role.Rules = rules; autoUpdate != "" {
			role.Annotations["rbac.authorization.kubernetes.io/autoupdate"] = autoUpdate
		}
		must(roles.Update(ctx, role, metav1.UpdateOptions{}))(t)
	}
	change("system:discovery", nil, "")
	change("system:basic-user", []rbacv1.PolicyRule{own}, "false")
	extended := must(roles.Get(ctx, "cluster-admin", metav1.GetOptions{}))(t)
	change("cluster-admin", append(extended.Rules, own), "")
	if err := s.client.RbacV1().ClusterRoleBindings().Delete(ctx, "system:discovery", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s = newServer(t, dir, nil)
	roles = s.client.RbacV1().ClusterRoles()
	if role := must(roles.Get(ctx, "system:discovery", metav1.GetOptions{}))(t); !slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool { return slices.Contains(r.NonResourceURLs, "/api") }) {
		t.Errorf("a role that was emptied: %+v", role.Rules)
	}
	if role := must(roles.Get(ctx, "system:basic-user", metav1.GetOptions{}))(t); len(role.Rules) != 1 || role.Rules[0].Resources[0] != "own" {
		t.Errorf("a role whose owner keeps it: %+v", role.Rules)
	}
	if role := must(roles.Get(ctx, "cluster-admin", metav1.GetOptions{}))(t); len(role.Rules) != len(extended.Rules)+1 {
		t.Errorf("a role that was extended: %+v", role.Rules)
	}
	must(s.client.RbacV1().ClusterRoleBindings().Get(ctx, "system:discovery", metav1.GetOptions{}))(t)
	if role := must(roles.Get(ctx, "edit", metav1.GetOptions{}))(t); role.AggregationRule == nil {
		t.Errorf("edit is not aggregated: %+v", role)
	}
}

func TestPriorityAndFairnessIsKept(t *testing.T) {
	t.Parallel()
	s := newServer(t, t.TempDir(), nil)
	ctx, schemas := t.Context(), s.client.FlowcontrolV1().FlowSchemas()
	const annotation = "apf.kubernetes.io/autoupdate-spec"
	precedence := func(name string, to int) {
		t.Helper()
		patch := []byte(`{"spec":{"matchingPrecedence":` + strings.Repeat("9", to) + `}}`)
		must(schemas.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}))(t)
	}
	was := map[string]int32{}
	for _, name := range []string{"probes", "system-nodes", "global-default"} {
		was[name] = must(schemas.Get(ctx, name, metav1.GetOptions{}))(t).Spec.MatchingPrecedence
	}
	mine := must(schemas.Get(ctx, "system-nodes", metav1.GetOptions{}))(t)
	mine.Annotations[annotation] = "false"
	must(schemas.Update(ctx, mine, metav1.UpdateOptions{}))(t)
	precedence("system-nodes", 3)
	precedence("probes", 3)
	former := must(schemas.Get(ctx, "probes", metav1.GetOptions{}))(t)
	former.ObjectMeta = metav1.ObjectMeta{Name: "of-a-former-version", Annotations: map[string]string{annotation: "true"}}
	must(schemas.Create(ctx, former, metav1.CreateOptions{}))(t)
	if err := schemas.Delete(ctx, "global-default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was changed is as before", func() bool {
		probes, err := schemas.Get(ctx, "probes", metav1.GetOptions{})
		again, err2 := schemas.Get(ctx, "global-default", metav1.GetOptions{})
		_, err3 := schemas.Get(ctx, "of-a-former-version", metav1.GetOptions{})
		return err == nil && err2 == nil && apierrors.IsNotFound(err3) &&
			probes.Spec.MatchingPrecedence == was["probes"] && again.Spec.MatchingPrecedence == was["global-default"]
	})
	if mine = must(schemas.Get(ctx, "system-nodes", metav1.GetOptions{}))(t); mine.Spec.MatchingPrecedence != 999 || mine.Annotations[annotation] != "false" {
		t.Errorf("a schema whose owner keeps it: %d %v", mine.Spec.MatchingPrecedence, mine.Annotations)
	}
	levels := s.client.FlowcontrolV1().PriorityLevelConfigurations()
	must(levels.Patch(ctx, "exempt", types.MergePatchType, []byte(`{"spec":{"exempt":{"lendablePercent":7}}}`), metav1.PatchOptions{}))(t)
	eventually(t, "the mandatory level as before", func() bool {
		level := must(levels.Get(ctx, "exempt", metav1.GetOptions{}))(t)
		return *level.Spec.Exempt.LendablePercent == 0
	})
}
