package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/apiserver/server"
)

const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, namespaces: [audited], resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, namespaces: [audited], omitManagedFields: true, resources: [{group: "", resources: [configmaps]}]}
- {level: Request, namespaces: [audited], resources: [{group: "", resources: [pods]}]}
- {level: None}
`

// auditReceiver keeps what the webhook backend sends.
type auditReceiver struct {
	*httptest.Server
	mu      sync.Mutex
	events  []auditv1.Event
	batches int
}

func newAuditReceiver(t *testing.T) *auditReceiver {
	t.Helper()
	r := &auditReceiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		var list auditv1.EventList
		if err := json.NewDecoder(request.Body).Decode(&list); err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.batches++
		r.events = append(r.events, list.Items...)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *auditReceiver) all() []auditv1.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// kubeconfig leads a webhook client to a server without credentials.
func kubeconfig(t *testing.T, url string, ca []byte) string {
	t.Helper()
	trust := ""
	if ca != nil {
		trust = ", certificate-authority-data: " + base64Of(ca)
	}
	return file(t, "kubeconfig", "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{name: x, cluster: {server: '"+url+"'"+trust+"}}]\n"+
		"contexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x, user: {}}]\n")
}

func TestAudit(t *testing.T) {
	receiver := newAuditReceiver(t)
	logs := t.TempDir()
	log := filepath.Join(logs, "audit.log")
	s := newServer(t, t.TempDir(), func(o *server.Options) {
		o.Audit.PolicyFile = file(t, "policy.yaml", auditPolicy)
		o.Audit.LogOptions.Path = log
		o.Audit.LogOptions.MaxSize, o.Audit.LogOptions.MaxBackups = 1, 2
		o.Audit.WebhookOptions.ConfigFile = kubeconfig(t, receiver.URL, nil)
		o.Audit.WebhookOptions.InitialBackoff = time.Second
		o.Audit.WebhookOptions.BatchOptions.BatchConfig.MaxBatchWait = time.Second
	})
	ctx, core := t.Context(), s.client.CoreV1()
	must(core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: "audited", Labels: map[string]string{"pod-security.kubernetes.io/audit": "restricted"},
	}}, metav1.CreateOptions{}))(t)
	must(core.ServiceAccounts("audited").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))(t)
	auditingPolicy(t, s)

	user := s.impersonate(t, "alice", "system:masters").CoreV1()
	meta := metav1.ObjectMeta{Name: "x"}
	must(user.Secrets("audited").Create(ctx, &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"k": "dont-log-me"}}, metav1.CreateOptions{}))(t)
	must(user.Secrets("audited").Get(ctx, "x", metav1.GetOptions{}))(t)
	must(user.ConfigMaps("audited").Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "do-log-me"}}, metav1.CreateOptions{}))(t)
	n := 0
	eventually(t, "the policy in force", func() bool {
		n++
		p := must(user.Pods("audited").Create(ctx, pod(fmt.Sprint("p-", n)), metav1.CreateOptions{}))(t)
		var found bool
		eventually(t, "the pod's event", func() bool {
			at := slices.IndexFunc(receiver.all(), func(e auditv1.Event) bool { return e.ObjectRef.Resource == "pods" && e.ObjectRef.Name == p.Name })
			if at < 0 {
				return false
			}
			_, found = receiver.all()[at].Annotations["validation.policy.admission.k8s.io/validation_failure"]
			return true
		})
		return found
	})
	// What fills a file is rotated away.
	for _, name := range []string{"a", "b", "c"} {
		large := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": strings.Repeat("x", 300<<10)}}
		must(user.ConfigMaps("audited").Create(ctx, large, metav1.CreateOptions{}))(t)
	}
	eventually(t, "rotated files", func() bool { return len(must(filepath.Glob(filepath.Join(logs, "audit-*.log")))(t)) == 2 })
	if err := s.stop(); err != nil { // it writes what is left
		t.Fatal(err)
	}
	checkAuditEvents(t, receiver.all())
	checkAuditEvents(t, readAuditFiles(t, logs))
	if n := len(receiver.all()); receiver.batches >= n {
		t.Errorf("%d events came in %d batches", n, receiver.batches)
	}
	if info := must(os.Stat(log))(t); info.Mode().Perm() != 0o600 {
		t.Errorf("the log has mode %v", info.Mode())
	}
}

// auditingPolicy only leaves traces in the audit log.
func auditingPolicy(t *testing.T, s *testServer) {
	t.Helper()
	ctx, client := t.Context(), s.client.AdmissionregistrationV1()
	must(client.ValidatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "traces.example.com"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{"CREATE"},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
				},
			}}},
			Validations:      []admissionregistrationv1.Validation{{Expression: "false", Message: "never right"}},
			AuditAnnotations: []admissionregistrationv1.AuditAnnotation{{Key: "image", ValueExpression: "string(object.spec.containers[0].image)"}},
		},
	}, metav1.CreateOptions{}))(t)
	must(client.ValidatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "traces"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "traces.example.com", ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Audit},
		},
	}, metav1.CreateOptions{}))(t)
}

func readAuditFiles(t *testing.T, dir string) []auditv1.Event {
	t.Helper()
	var events []auditv1.Event
	for _, path := range must(filepath.Glob(filepath.Join(dir, "audit*.log")))(t) {
		for line := range strings.Lines(string(must(os.ReadFile(path))(t))) {
			var e auditv1.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			events = append(events, e)
		}
	}
	return events
}

func checkAuditEvents(t *testing.T, events []auditv1.Event) {
	t.Helper()
	seen := map[string]bool{}
	for _, e := range events {
		if e.Stage == auditv1.StageRequestReceived {
			t.Fatalf("a stage that is to be omitted: %+v", e)
		}
		if e.ObjectRef == nil || e.ObjectRef.Namespace != "audited" {
			t.Fatalf("a request that no rule names: %+v", e)
		}
		text := string(ptr.Deref(e.RequestObject, runtime.Unknown{}).Raw) + string(ptr.Deref(e.ResponseObject, runtime.Unknown{}).Raw)
		seen[e.ObjectRef.Resource] = true
		switch e.ObjectRef.Resource {
		case "secrets":
			if e.Level != auditv1.LevelMetadata || text != "" {
				t.Errorf("the body of a secret is logged: %+v", e)
			}
			if e.ImpersonatedUser == nil || e.ImpersonatedUser.Username != "alice" {
				t.Errorf("sent by %v as %v", e.User, e.ImpersonatedUser)
			}
		case "configmaps":
			if e.ObjectRef.Name == "x" && strings.Count(text, "do-log-me") != 2 || strings.Contains(text, "managedFields") {
				t.Errorf("bodies of a config map: %.300s", text)
			}
		case "pods":
			if e.RequestObject == nil || e.ResponseObject != nil {
				t.Errorf("a pod at level Request has bodies %v %v", e.RequestObject != nil, e.ResponseObject != nil)
			}
			if violations := e.Annotations["pod-security.kubernetes.io/audit-violations"]; !strings.Contains(violations, `would violate PodSecurity "restricted:latest"`) {
				t.Errorf("annotations: %v", e.Annotations)
			}
			if e.Annotations["traces.example.com/image"] == "i" && strings.Contains(e.Annotations["validation.policy.admission.k8s.io/validation_failure"], "never right") {
				seen["policy"] = true
			}
		default:
			t.Errorf("logged against the policy: %+v", e)
		}
	}
	for _, want := range []string{"secrets", "configmaps", "pods", "policy"} {
		if !seen[want] {
			t.Errorf("no event of %s among %d", want, len(events))
		}
	}
}
