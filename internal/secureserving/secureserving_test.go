package secureserving

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"keelson.dev/internal/pki"
)

// Who gets in: everybody to health, otherwise whom the API server knows (by token, or by an authority that it publishes) and allows.
func TestRun(t *testing.T) {
	authority, pair := newAuthority(t)
	stranger, _ := newAuthority(t)
	client := fake.NewClientset(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "extension-apiserver-authentication", ResourceVersion: "1"},
		Data:       map[string]string{"client-ca-file": string(pair.CertPEM)},
	})
	reviews := 0
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		review := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		review.Status.Authenticated, review.Status.User.Username = review.Spec.Token == "good", "monitor"
		return true, review, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		reviews++
		review := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		review.Status.Allowed = review.Spec.User == "monitor" && review.Spec.NonResourceAttributes.Path == "/metrics" && review.Spec.NonResourceAttributes.Verb == "get"
		return true, review, nil
	})
	port := freePort(t)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "shown") })
	ended := make(chan error, 1)
	broken := Check{"caches", func(*http.Request) error { return errors.New("empty") }}
	go func() {
		ended <- Run(t.Context(), Config{Address: "127.0.0.1", Port: port, Client: client}, mux, broken)
	}()
	url := "https://" + (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String()
	ask := func(a *pki.Authority, token, method, path string) (int, string) {
		config := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the port's certificate is its own
		if a != nil {
			config.Certificates = []tls.Certificate{clientCertificate(t, a)}
		}
		request, err := http.NewRequestWithContext(t.Context(), method, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		for deadline := time.Now().Add(10 * time.Second); ; {
			response, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}).Do(request)
			if err == nil {
				defer response.Body.Close()
				body, _ := io.ReadAll(response.Body)
				return response.StatusCode, strings.TrimSpace(string(body))
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; { // until the published authority has been read
		if code, _ := ask(authority, "", "GET", "/metrics"); code == 200 || time.Now().After(deadline) {
			break
		}
	}
	for _, tc := range []struct {
		authority    *pki.Authority
		token        string
		method, path string
		code         int
		body         string
	}{
		{nil, "", "GET", "/healthz", 200, "ok"},
		{nil, "", "GET", "/livez?verbose", 200, "[+]ping ok\nlivez check passed"},
		{nil, "", "GET", "/readyz", 500, "[+]ping ok\n[-]caches failed: empty\nreadyz check failed"},
		{authority, "", "GET", "/metrics", 200, "shown"},
		{authority, "", "POST", "/metrics", 403, "Forbidden (user=monitor, verb=post, path=/metrics)"},
		{stranger, "", "GET", "/metrics", 403, "Forbidden (user=system:anonymous, verb=get, path=/metrics)"},
		{nil, "good", "GET", "/metrics", 200, "shown"},
		{nil, "good", "GET", "/debug", 403, "Forbidden (user=monitor, verb=get, path=/debug)"},
		{nil, "bad", "GET", "/metrics", 401, "Unauthorized"},
		{nil, "", "GET", "/metrics", 403, "Forbidden (user=system:anonymous, verb=get, path=/metrics)"},
	} {
		if code, body := ask(tc.authority, tc.token, tc.method, tc.path); code != tc.code || body != tc.body {
			t.Errorf("%s %s with token %q: %d %q, want %d %q", tc.method, tc.path, tc.token, code, body, tc.code, tc.body)
		}
	}
	if reviews != 5 {
		t.Errorf("the API server was asked %d times for rights, want once for each of five", reviews)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func newAuthority(t *testing.T) (*pki.Authority, pki.KeyPair) {
	t.Helper()
	authority, pair, err := pki.NewAuthority("clients", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return authority, pair
}

func clientCertificate(t *testing.T, by *pki.Authority) tls.Certificate {
	t.Helper()
	pair, err := by.Issue(pki.Request{CommonName: "monitor"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
