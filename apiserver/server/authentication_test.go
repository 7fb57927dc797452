package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"keelson.dev/apiserver/server"
	"keelson.dev/internal/pki"
)

// issuer is an OpenID issuer with discovery and keys behind TLS.
type issuer struct {
	*httptest.Server
	mu     sync.Mutex
	keys   []jose.JSONWebKey
	signer jose.Signer
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys"})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: i.keys})
	})
	i.Server = httptest.NewTLSServer(mux)
	t.Cleanup(i.Close)
	i.rotate(t)
	return i
}

// rotate puts a new key in the place of the former.
func (i *issuer) rotate(t *testing.T) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	id := fmt.Sprint("key-", time.Now().UnixNano())
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = []jose.JSONWebKey{{Key: key.Public(), KeyID: id, Algorithm: "ES256", Use: "sig"}}
	i.signer = must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil))(t)
}

// token is signed by the newest key. Every token is another one, so that none is answered from a cache.
func (i *issuer) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := map[string]any{
		"iss": i.URL, "aud": "cluster", "exp": time.Now().Add(time.Hour).Unix(), "jti": rand.Text(),
	}
	maps.Copy(all, claims)
	i.mu.Lock()
	defer i.mu.Unlock()
	return must(jwt.Signed(i.signer).Claims(all).Serialize())(t)
}

// describe is an entry of an AuthenticationConfiguration's jwt; more is indented by two.
func (i *issuer) describe(more string) string {
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}))
	return "- issuer: {url: '" + i.URL + "', audiences: [cluster, other], audienceMatchPolicy: MatchAny, certificateAuthority: " + fmt.Sprintf("%q", ca) + "}\n" + more
}

const authenticationHead = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"

const celMappings = `
  claimValidationRules:
  - {expression: "claims.tier == 'gold'", message: gold only}
  claimMappings:
    username: {expression: "'one:' + claims.sub"}
    groups: {expression: "claims.roles"}
    uid: {claim: number}
    extra: [{key: example.com/tenant, valueExpression: "claims.tenant"}]
  userValidationRules:
  - {expression: "!user.username.startsWith('one:system:')", message: reserved}
`

const plainMappings = `
  claimMappings:
    username: {claim: sub, prefix: "%s"}
    groups: {claim: groups, prefix: ""}
`

// whoami is how the server sees the client.
func whoami(t *testing.T, client kubernetes.Interface) (authenticationv1.UserInfo, error) {
	t.Helper()
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return review.Status.UserInfo, nil
}

func (s *testServer) bearer(t *testing.T, token string) kubernetes.Interface {
	t.Helper()
	return s.as(t, func(c *rest.Config) { c.BearerToken = token })
}

func TestOIDC(t *testing.T) {
	t.Parallel()
	one, two := newIssuer(t), newIssuer(t)
	config := file(t, "authentication.yaml", authenticationHead+
		"anonymous: {enabled: true, conditions: [{path: /version}]}\njwt:\n"+one.describe(celMappings)+two.describe(fmt.Sprintf(plainMappings, "two:")))
	s := newServer(t, t.TempDir(), func(o *server.Options) { o.Authentication.ConfigFile = config })

	full := map[string]any{"sub": "ann", "tier": "gold", "roles": []string{"dev", "ops"}, "number": "7", "tenant": "blue"}
	with := func(key string, value any) map[string]any {
		out := map[string]any{}
		maps.Copy(out, full)
		out[key] = value
		return out
	}
	eventually(t, "the issuers' keys fetched", func() bool {
		_, err := whoami(t, s.bearer(t, one.token(t, full)))
		_, err2 := whoami(t, s.bearer(t, two.token(t, map[string]any{"sub": "bob"})))
		return err == nil && err2 == nil
	})
	got := must(whoami(t, s.bearer(t, one.token(t, full))))(t)
	want := authenticationv1.UserInfo{
		Username: "one:ann", UID: "7", Groups: []string{"dev", "ops", "system:authenticated"},
		Extra: map[string]authenticationv1.ExtraValue{"example.com/tenant": {"blue"}},
	}
	delete(got.Extra, "authentication.kubernetes.io/credential-id")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, token := range map[string]string{
		"claim rule":     one.token(t, with("tier", "silver")),
		"user rule":      one.token(t, with("sub", "system:admin")),
		"other audience": one.token(t, with("aud", "elsewhere")),
		"expired":        one.token(t, with("exp", time.Now().Add(-time.Minute).Unix())),
		"other's key":    two.token(t, with("iss", one.URL)),
		"no claim":       one.token(t, map[string]any{"sub": "ann", "tier": "gold"}),
	} {
		if user, err := whoami(t, s.bearer(t, token)); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: accepted as %v, %v", name, user.Username, err)
		}
	}
	if user := must(whoami(t, s.bearer(t, two.token(t, map[string]any{"sub": "bob", "groups": "team", "aud": "other"}))))(t); user.Username != "two:bob" || !slices.Contains(user.Groups, "team") {
		t.Errorf("the second issuer's user: %v", user)
	}
	anonymous := s.as(t, func(*rest.Config) {})
	if _, err := anonymous.Discovery().ServerVersion(); err != nil {
		t.Errorf("anonymous where it is allowed: %v", err)
	}
	if err := anonymous.Discovery().RESTClient().Get().AbsPath("/readyz").Do(t.Context()).Error(); !apierrors.IsUnauthorized(err) {
		t.Errorf("anonymous elsewhere: %v", err)
	}

	one.rotate(t)
	eventually(t, "a new key of the issuer", func() bool { _, err := whoami(t, s.bearer(t, one.token(t, full))); return err == nil })
	write(t, config, authenticationHead+"jwt:\n"+two.describe(fmt.Sprintf(plainMappings, "changed:")))
	eventually(t, "the new configuration", func() bool {
		user, _ := whoami(t, s.bearer(t, two.token(t, map[string]any{"sub": "bob"})))
		return user.Username == "changed:bob"
	})
	if _, err := whoami(t, s.bearer(t, one.token(t, full))); !apierrors.IsUnauthorized(err) {
		t.Errorf("an issuer that was taken out: %v", err)
	}
	write(t, config, authenticationHead+"jwt: nonsense\n")
	eventually(t, "the failed reload in the metrics", func() bool {
		_, metrics := s.raw(t, http.MethodGet, "/metrics", "", "", "")
		return strings.Contains(metrics, `apiserver_authentication_config_controller_automatic_reloads_total{`) && strings.Contains(metrics, `status="failure"`)
	})
	must(whoami(t, s.bearer(t, two.token(t, map[string]any{"sub": "bob"}))))(t)
}

// tokenWebhook answers TokenReviews and counts them by token.
type tokenWebhook struct {
	*httptest.Server
	mu    sync.Mutex
	asked map[string]int
}

func newTokenWebhook(t *testing.T) *tokenWebhook {
	t.Helper()
	w := &tokenWebhook{asked: map[string]int{}}
	w.Server = httptest.NewTLSServer(http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(in.Body).Decode(&review); err != nil || review.APIVersion != "authentication.k8s.io/v1" {
			t.Errorf("%v %s", err, review.APIVersion)
		}
		w.mu.Lock()
		w.asked[review.Spec.Token]++
		w.mu.Unlock()
		if name, good := strings.CutPrefix(review.Spec.Token, "good-"); good {
			review.Status = authenticationv1.TokenReviewStatus{
				Authenticated: true, Audiences: review.Spec.Audiences, User: authenticationv1.UserInfo{Username: "hook:" + name, Groups: []string{"hooked"}},
			}
		}
		_ = json.NewEncoder(out).Encode(review)
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *tokenWebhook) count(token string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[token]
}

func (w *tokenWebhook) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Certificate().Raw})
}

// TestRequestAuthenticators tries the ways to be known that need no configuration file.
func TestRequestAuthenticators(t *testing.T) {
	hook := newTokenWebhook(t)
	dir := t.TempDir()
	s := newServer(t, dir, func(o *server.Options) {
		a := &o.Authentication
		a.WebhookConfigFile, a.WebhookVersion = kubeconfig(t, hook.URL, hook.ca()), "v1"
		a.RequestHeaderCAFile, a.RequestHeaderAllowedCNs = dir+"/pki/front-proxy-ca.crt", []string{"front-proxy-client"}
		a.TokenAuthFile = file(t, "tokens.csv", `static-token,tim,1,"a,b"`+"\n")
	})
	for range 2 {
		user := must(whoami(t, s.bearer(t, "good-ann")))(t)
		if diff := cmp.Diff([]string{"hooked", "system:authenticated"}, user.Groups); diff != "" || user.Username != "hook:ann" {
			t.Errorf("by webhook: %+v", user)
		}
		if _, err := whoami(t, s.bearer(t, "bad")); !apierrors.IsUnauthorized(err) {
			t.Errorf("refused by the webhook: %v", err)
		}
	}
	if good, bad := hook.count("good-ann"), hook.count("bad"); good != 1 || bad != 1 {
		t.Errorf("the webhook was asked %d and %d times, its answers should have been kept", good, bad)
	}
	if user := must(whoami(t, s.bearer(t, "static-token")))(t); user.Username != "tim" || user.UID != "1" || !slices.Contains(user.Groups, "b") {
		t.Errorf("by token file: %+v", user)
	}
	if hook.count("static-token") != 0 {
		t.Error("a static token was shown to the webhook")
	}

	// A front proxy is believed by its certificate, and only with an allowed name.
	authority := must(pki.ParseAuthority(readPair(t, s.pki("front-proxy-ca"))))(t)
	headers := func(pair pki.KeyPair) kubernetes.Interface {
		return s.as(t, func(c *rest.Config) {
			c.CertData, c.KeyData = pair.CertPEM, pair.KeyPEM
			c.Wrap(transport.WrapperFunc(func(next http.RoundTripper) http.RoundTripper {
				return transport.NewAuthProxyRoundTripper("fred", "9", []string{"friends"}, map[string][]string{"scope": {"s"}}, next)
			}))
		})
	}
	user := must(whoami(t, headers(readPair(t, s.pki("front-proxy-client")))))(t)
	want := authenticationv1.UserInfo{
		Username: "fred", UID: "9", Groups: []string{"friends", "system:authenticated"}, Extra: map[string]authenticationv1.ExtraValue{"scope": {"s"}},
	}
	if diff := cmp.Diff(want, user); diff != "" {
		t.Error(diff)
	}
	for name, pair := range map[string]pki.KeyPair{
		"another name":      must(authority.Issue(pki.Request{CommonName: "somebody"}, time.Now()))(t),
		"another authority": must(must(pki.ParseAuthority(readPair(t, s.pki("etcd/ca"))))(t).Issue(pki.Request{CommonName: "front-proxy-client"}, time.Now()))(t),
	} {
		if user, err := whoami(t, headers(pair)); err == nil {
			t.Errorf("headers with a certificate of %s make %v", name, user.Username)
		}
	}
	pair := must(pki.EnsureClient(dir+"/pki", "eve", pki.Request{CommonName: "eve", Organizations: []string{"spies"}}, time.Now()))(t)
	if user := must(whoami(t, headers(pair)))(t); user.Username != "eve" || !slices.Contains(user.Groups, "spies") {
		t.Errorf("a client's certificate with a front proxy's headers makes %+v", user)
	}
	published := must(s.client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{}))(t)
	if published.Data["requestheader-allowed-names"] != `["front-proxy-client"]` || !strings.Contains(published.Data["client-ca-file"], "BEGIN CERTIFICATE") {
		t.Errorf("what aggregated servers learn: %v", published.Data)
	}
}

func readPair(t *testing.T, path string) pki.KeyPair {
	t.Helper()
	return pki.KeyPair{CertPEM: must(os.ReadFile(path + ".crt"))(t), KeyPEM: must(os.ReadFile(path + ".key"))(t)}
}
