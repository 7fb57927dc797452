package authorization

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/apiserver/authorization/node"
)

func newAuthorization(t *testing.T, cfg Config) *Authorization {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	cfg.Informers = informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	a, err := New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	api := cfg.Informers.Rbac().V1()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "alice"}}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"}}
	if err := api.ClusterRoles().Informer().GetIndexer().Add(role); err != nil {
		t.Fatal(err)
	}
	if err := api.ClusterRoleBindings().Informer().GetIndexer().Add(binding); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *Authorization) decides(name string, groups []string, verb, path string) authorizer.Decision {
	request := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: name, Groups: groups}, Verb: verb, Resource: "pods", ResourceRequest: path == "", Path: path}
	decision, _, _ := a.Authorizer.Authorize(context.Background(), request)
	return decision
}

func TestModes(t *testing.T) {
	cases := map[string]struct {
		modes            []string
		name, verb, path string
		groups           []string
		want             authorizer.Decision
	}{
		"masters":            {nil, "root", "delete", "", []string{"system:masters"}, authorizer.DecisionAllow},
		"other path":         {nil, "anyone", "get", "/metrics", nil, authorizer.DecisionNoOpinion},
		"role":               {nil, "alice", "get", "", nil, authorizer.DecisionAllow},
		"no role":            {nil, "bob", "get", "", nil, authorizer.DecisionNoOpinion},
		"role is not asked":  {[]string{"Node"}, "alice", "get", "", nil, authorizer.DecisionNoOpinion},
		"always":             {[]string{"AlwaysAllow"}, "bob", "delete", "", nil, authorizer.DecisionAllow},
		"node":               {nil, "system:node:n", "create", "", []string{"system:nodes"}, authorizer.DecisionAllow},
		"masters before all": {[]string{"AlwaysDeny"}, "root", "get", "", []string{"system:masters"}, authorizer.DecisionAllow},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := newAuthorization(t, Config{Modes: c.modes})
			if got := a.decides(c.name, c.groups, c.verb, c.path); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	if _, err := New(context.Background(), Config{Modes: []string{"Guess"}, Informers: informers.NewSharedInformerFactory(fake.NewClientset(), 0)}); err == nil {
		t.Error("an unknown mode was accepted")
	}
}

// webhookFor answers access reviews: bob may do everything.
func webhookFor(t *testing.T) (kubeconfig string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Status.Allowed = review.Spec.User == "bob"
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"x","contexts":[{"name":"x","context":{"cluster":"x","user":"x"}}],"clusters":[{"name":"x","cluster":{"server":%q}}],"users":[{"name":"x","user":{}}]}`, server.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestConfigurationIsReloaded(t *testing.T) {
	hook := webhookFor(t)
	file := filepath.Join(t.TempDir(), "authorization.yaml")
	write := func(authorizers string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n"+authorizers), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("- {type: RBAC, name: rbac}\n")
	a := newAuthorization(t, Config{ConfigFile: file})
	if a.decides("alice", nil, "get", "") != authorizer.DecisionAllow || a.decides("bob", nil, "get", "") == authorizer.DecisionAllow {
		t.Fatal("the file is not what decides")
	}
	write(fmt.Sprintf(`- type: Webhook
  name: hook
  webhook:
    timeout: 3s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: NoOpinion
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: %s}
    matchConditions: [{expression: "request.resourceAttributes.verb != 'delete'"}]
`, hook))
	err := wait.PollUntilContextTimeout(context.Background(), 10*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
		return a.decides("bob", nil, "get", "") == authorizer.DecisionAllow && a.decides("alice", nil, "get", "") != authorizer.DecisionAllow, nil
	})
	if err != nil {
		t.Fatal("the new file was not taken")
	}
	if a.decides("bob", nil, "delete", "") == authorizer.DecisionAllow {
		t.Error("the webhook was asked although its condition does not match")
	}
	write("- {type: Guess, name: x}\n")
	if a.decides("bob", nil, "get", "") != authorizer.DecisionAllow {
		t.Error("a bad file put the former one out of use")
	}
}

func TestTransformKeepsReferences(t *testing.T) {
	whole := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", Labels: map[string]string{"a": "b"}, ManagedFields: []metav1.ManagedFieldsEntry{{}}},
		Spec: corev1.PodSpec{
			NodeName: "n", ServiceAccountName: "sa", ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
			Containers: []corev1.Container{{
				Name: "c", Image: "large",
				Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}}},
			}},
			InitContainers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "init"}}}}}},
			Volumes:        []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol"}}}},
		},
	}
	got, err := Transform(whole.DeepCopy())
	if err != nil {
		t.Fatal(err)
	}
	slim := got.(*corev1.Pod)
	set := func(p *corev1.Pod) map[node.Reference]bool {
		all := map[node.Reference]bool{}
		for _, ref := range node.References(p) {
			all[ref] = true
		}
		return all
	}
	if diff := cmp.Diff(set(whole), set(slim)); diff != "" {
		t.Error(diff)
	}
	if slim.Spec.NodeName != "n" || slim.UID != "u" || slim.Labels != nil || slim.Spec.Containers[0].Image != "" {
		t.Errorf("unexpected remainder: %v", slim)
	}
	again, err := Transform(slim.DeepCopy())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slim, again); diff != "" {
		t.Errorf("not idempotent: %s", diff)
	}
}
