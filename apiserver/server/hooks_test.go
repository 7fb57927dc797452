package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"keelson.dev/internal/pki"
)

// backend is a server of a test that the API server calls, by URL or by the name of a service.
type backend struct {
	*httptest.Server
	authority []byte
	namespace string
	port      int32
}

// newBackend serves handler on loopback. Its certificate is that of the service "backend" in the namespace, which is an ExternalName
// for it: the one kind of service that is reached without a service network.
func (s *testServer) newBackend(t *testing.T, namespace string, handler http.Handler) *backend {
	t.Helper()
	authority, root, err := pki.NewAuthority("backend", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair := must(authority.Issue(pki.Request{
		CommonName: "backend", DNSNames: []string{"localhost", "backend." + namespace + ".svc"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)},
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, time.Now()))(t)
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{must(tls.X509KeyPair(pair.CertPEM, pair.KeyPEM))(t)}, ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "backend"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}}
	must(s.client.CoreV1().Services(namespace).Create(t.Context(), service, metav1.CreateOptions{}))(t)
	return &backend{Server: server, authority: root.CertPEM, namespace: namespace, port: int32(server.Listener.Addr().(*net.TCPAddr).Port)}
}

func (b *backend) byURL(path string) admissionregistrationv1.WebhookClientConfig {
	return admissionregistrationv1.WebhookClientConfig{URL: new("https://localhost:" + strings.TrimPrefix(b.URL, "https://127.0.0.1:") + path), CABundle: b.authority}
}

func (b *backend) byService(path string) admissionregistrationv1.WebhookClientConfig {
	return admissionregistrationv1.WebhookClientConfig{
		Service: &admissionregistrationv1.ServiceReference{Namespace: b.namespace, Name: "backend", Path: &path, Port: &b.port}, CABundle: b.authority,
	}
}

// review answers admission reviews: decide looks at the request and fills in the response, which allows.
func review(t *testing.T, decide func(*admissionv1.AdmissionRequest, *admissionv1.AdmissionResponse)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var sent admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			t.Error(err)
			return
		}
		sent.Response = &admissionv1.AdmissionResponse{UID: sent.Request.UID, Allowed: true}
		decide(sent.Request, sent.Response)
		sent.Request = nil
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(sent)
	}
}

func patched(response *admissionv1.AdmissionResponse, patch string) {
	response.Patch, response.PatchType = []byte(patch), new(admissionv1.PatchTypeJSONPatch)
}

// webhook is one of config maps in a namespace.
func webhook(name, namespace string, client admissionregistrationv1.WebhookClientConfig) admissionregistrationv1.ValidatingWebhook {
	return admissionregistrationv1.ValidatingWebhook{
		Name: name, ClientConfig: client, AdmissionReviewVersions: []string{"v1"}, SideEffects: new(admissionregistrationv1.SideEffectClassNone),
		Rules:             []admissionregistrationv1.RuleWithOperations{ruleFor("", "configmaps", admissionregistrationv1.Create)},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
	}
}

func mutatingOf(w admissionregistrationv1.ValidatingWebhook) admissionregistrationv1.MutatingWebhook {
	return admissionregistrationv1.MutatingWebhook{
		Name: w.Name, ClientConfig: w.ClientConfig, AdmissionReviewVersions: w.AdmissionReviewVersions, SideEffects: w.SideEffects,
		Rules: w.Rules, NamespaceSelector: w.NamespaceSelector,
	}
}

// validating registers webhooks until the test ends.
func (s *testServer) validating(t *testing.T, webhooks ...admissionregistrationv1.ValidatingWebhook) {
	t.Helper()
	client := s.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	made := must(client.Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{GenerateName: "v-"}, Webhooks: webhooks}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() { _ = client.Delete(context.Background(), made.Name, metav1.DeleteOptions{}) })
}

func TestMutatingWebhooksAreCalledAgain(t *testing.T) {
	ns := namespace(t)
	// The first adds to what the second has put there, which it sees only when it is called again.
	first := review(t, func(request *admissionv1.AdmissionRequest, response *admissionv1.AdmissionResponse) {
		patch := `[{"op":"add","path":"/data","value":{"first":"yes"}}]`
		if strings.Contains(string(request.Object.Raw), `"second":"yes"`) {
			patch = `[{"op":"add","path":"/data/again","value":"yes"}]`
		}
		patched(response, patch)
		response.Warnings = []string{"seen by the first"}
	})
	second := review(t, func(_ *admissionv1.AdmissionRequest, response *admissionv1.AdmissionResponse) {
		patched(response, `[{"op":"add","path":"/data/second","value":"yes"}]`)
	})
	mux := http.NewServeMux()
	mux.Handle("/first", first)
	mux.Handle("/second", second)
	b := shared.newBackend(t, ns, mux)
	again, once := mutatingOf(webhook("first.example.com", ns, b.byURL("/first"))), mutatingOf(webhook("second.example.com", ns, b.byService("/second")))
	again.ReinvocationPolicy = new(admissionregistrationv1.IfNeededReinvocationPolicy)
	client := shared.client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	made := must(client.Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "m-"}, Webhooks: []admissionregistrationv1.MutatingWebhook{again, once},
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() { _ = client.Delete(context.Background(), made.Name, metav1.DeleteOptions{}) })
	body, warnings := "", ""
	eventually(t, "the webhooks are called", func() bool {
		_, body, warnings = shared.create(t, ns, `{"metadata":{"name":"a"}}`, "?dryRun=All")
		return strings.Contains(body, `"first":"yes"`) && strings.Contains(body, `"second":"yes"`)
	})
	if !strings.Contains(body, `"again":"yes"`) || !strings.Contains(warnings, "seen by the first") {
		t.Errorf("%s, warnings %s", body, warnings)
	}
}

func TestValidatingWebhooks(t *testing.T) {
	ns := namespace(t)
	mux := http.NewServeMux()
	mux.Handle("/deny", review(t, func(request *admissionv1.AdmissionRequest, response *admissionv1.AdmissionResponse) {
		if strings.HasPrefix(request.Name, "bad") {
			response.Allowed, response.Result = false, &metav1.Status{Message: "a bad name", Code: http.StatusTeapot}
		}
	}))
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", http.StatusInternalServerError) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then the end of the client is noticed
		<-r.Context().Done()
	})
	b := shared.newBackend(t, ns, mux)
	labelled := func(w admissionregistrationv1.ValidatingWebhook, label string) admissionregistrationv1.ValidatingWebhook {
		w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"to": label}}
		return w
	}
	deny := webhook("deny.example.com", ns, b.byURL("/deny"))
	deny.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "not-excused", Expression: "!has(object.data) || !('excuse' in object.data)"}}
	closed, open := labelled(webhook("closed.example.com", ns, b.byURL("/broken")), "closed"), labelled(webhook("open.example.com", ns, b.byURL("/broken")), "open")
	open.FailurePolicy = new(admissionregistrationv1.Ignore)
	slow := labelled(webhook("slow.example.com", ns, b.byService("/slow")), "slow")
	slow.TimeoutSeconds = ptr.To[int32](1)
	effects := labelled(webhook("effects.example.com", ns, b.byURL("/deny")), "effects")
	effects.SideEffects = new(admissionregistrationv1.SideEffectClassNoneOnDryRun)
	shared.validating(t, deny, closed, open, slow, effects)
	eventually(t, "the webhooks are called", func() bool {
		_, body, _ := shared.create(t, ns, `{"metadata":{"name":"bad"}}`, "?dryRun=All")
		return strings.Contains(body, "denied the request: a bad name")
	})
	for name, c := range map[string]struct {
		body string
		code int
		want string
	}{
		"good":             {`{"metadata":{"name":"good"}}`, 201, ""},
		"bad":              {`{"metadata":{"name":"bad"}}`, 418, `admission webhook \"deny.example.com\" denied the request: a bad name`},
		"excused":          {`{"metadata":{"name":"bad"},"data":{"excuse":""}}`, 201, ""},
		"fails closed":     {`{"metadata":{"name":"a","labels":{"to":"closed"}}}`, 500, `failed calling webhook \"closed.example.com\"`},
		"fails open":       {`{"metadata":{"name":"b","labels":{"to":"open"}}}`, 201, ""},
		"too slow":         {`{"metadata":{"name":"c","labels":{"to":"slow"}}}`, 500, "context deadline exceeded"},
		"none on dry runs": {`{"metadata":{"name":"d","labels":{"to":"effects"}}}`, 201, ""},
	} {
		if code, body, _ := shared.create(t, ns, c.body, "?dryRun=All"); code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
}

// TestWebhooksSeeOtherVersions registers for one version of a kind and sends another.
func TestWebhooksSeeOtherVersions(t *testing.T) {
	ns := namespace(t)
	var seen atomic.Pointer[admissionv1.AdmissionRequest]
	b := shared.newBackend(t, ns, review(t, func(request *admissionv1.AdmissionRequest, _ *admissionv1.AdmissionResponse) { seen.Store(request) }))
	w := webhook("v1.example.com", ns, b.byURL("/"))
	w.Rules = []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{"CREATE"}, Rule: admissionregistrationv1.Rule{
		APIGroups: []string{"autoscaling"}, APIVersions: []string{"v1"}, Resources: []string{"horizontalpodautoscalers"},
	}}}
	exact := w
	exact.Name, exact.MatchPolicy, exact.ClientConfig = "exact.example.com", new(admissionregistrationv1.Exact), b.byURL("/nobody-listens")
	exact.ClientConfig.CABundle = nil // would fail if it were called
	shared.validating(t, w, exact)
	scaler := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "h"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"}, MaxReplicas: 3,
	}}
	eventually(t, "the webhook is called", func() bool {
		_, err := shared.client.AutoscalingV2().HorizontalPodAutoscalers(ns).Create(t.Context(), scaler, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && seen.Load() != nil
	})
	request := seen.Load()
	if request.Kind.Version != "v1" || request.RequestKind.Version != "v2" || !strings.Contains(string(request.Object.Raw), `"apiVersion":"autoscaling/v1"`) {
		t.Errorf("kind %v, sent as %v: %s", request.Kind, request.RequestKind, request.Object.Raw)
	}
}

// TestQuotaUnderRaces lets many clients ask at once for more than the quota has.
func TestQuotaUnderRaces(t *testing.T) {
	ns := namespace(t)
	quotas, maps := shared.client.CoreV1().ResourceQuotas(ns), shared.client.CoreV1().ConfigMaps(ns)
	hard := quantities("count/configmaps", "5")
	quota := must(quotas.Create(t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{}))(t)
	quota.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: quantities("count/configmaps", "0")}
	must(quotas.UpdateStatus(t.Context(), quota, metav1.UpdateOptions{}))(t)
	eventually(t, "the quota is known", func() bool {
		_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "first"}}, metav1.CreateOptions{})
		found := must(quotas.Get(t.Context(), "q", metav1.GetOptions{}))(t)
		used := found.Status.Used["count/configmaps"]
		if err == nil && used.Value() == 0 {
			_ = maps.Delete(t.Context(), "first", metav1.DeleteOptions{})
		}
		return err == nil && used.Value() == 1
	})
	const clients = 12
	errs := make(chan error, clients)
	for range clients {
		go func() {
			_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "c-"}}, metav1.CreateOptions{})
			errs <- err
		}()
	}
	made := 0
	for range clients {
		switch err := <-errs; {
		case err == nil:
			made++
		case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: q"):
			t.Error(err)
		}
	}
	list := must(maps.List(t.Context(), metav1.ListOptions{}))(t)
	if made != 4 || len(list.Items) != 5 {
		t.Errorf("%d of the rest were made, %d stand", made, len(list.Items))
	}
}

// TestStricterNamespaceWarns tightens a namespace with pods that it would refuse.
func TestStricterNamespaceWarns(t *testing.T) {
	ns := namespace(t)
	privileged := pod("p")
	privileged.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	must(shared.client.CoreV1().Pods(ns).Create(t.Context(), privileged, metav1.CreateOptions{}))(t)
	var warned warnings
	client := shared.as(t, func(c *rest.Config) { *c = *rest.CopyConfig(shared.loopback); c.WarningHandlerWithContext = &warned })
	strict := []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"baseline"}}}`)
	must(client.CoreV1().Namespaces().Patch(t.Context(), ns, "application/merge-patch+json", strict, metav1.PatchOptions{}))(t)
	if !slices.ContainsFunc(warned, func(w string) bool { return strings.Contains(w, "p: privileged") }) {
		t.Errorf("warnings: %q", warned)
	}
	privileged.Name = "q"
	eventually(t, "the label counts", func() bool {
		_, err := client.CoreV1().Pods(ns).Create(t.Context(), privileged, metav1.CreateOptions{})
		return apierrors.IsForbidden(err)
	})
	code, metrics := shared.raw(t, "GET", "/metrics", "", "text/plain", "")
	if code != 200 || !strings.Contains(metrics, `pod_security_evaluations_total{decision="deny",mode="enforce",policy_level="baseline"`) {
		t.Errorf("no metrics of pod security: %d", code)
	}
}

type warnings []string

func (w *warnings) HandleWarningHeaderWithContext(_ context.Context, _ int, _, text string) {
	*w = append(*w, text)
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	return must(os.ReadFile(path))(t)
}
