package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"keelson.dev/apiserver/server"
	"keelson.dev/internal/pki"
	"keelson.dev/internal/satoken"
)

// token asks for a token of a service account of the namespace default.
func (s *testServer) token(t *testing.T, account string, spec authenticationv1.TokenRequestSpec) string {
	t.Helper()
	request := must(s.client.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), account, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{}))(t)
	return request.Status.Token
}

func (s *testServer) review(t *testing.T, token string, audiences ...string) authenticationv1.TokenReviewStatus {
	t.Helper()
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}
	return must(s.client.AuthenticationV1().TokenReviews().Create(t.Context(), review, metav1.CreateOptions{}))(t).Status
}

func (s *testServer) serviceAccount(t *testing.T, name string) *corev1.ServiceAccount {
	t.Helper()
	return must(s.client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))(t)
}

// TestBoundTokensEndWithTheirObject takes tokens through the whole server: issued, accepted with what they are bound to, and
// refused once that is gone. Every token is used once before, so an answer from the cache (10 s) must run out first.
func TestBoundTokensEndWithTheirObject(t *testing.T) {
	t.Parallel()
	s := newServer(t, t.TempDir(), nil)
	ctx, core := t.Context(), s.client.CoreV1()
	s.serviceAccount(t, "bound")
	must(core.Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bound"}}, metav1.CreateOptions{}))(t)
	must(core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "bound"}}, metav1.CreateOptions{}))(t)
	p := pod("bound")
	p.Spec.ServiceAccountName, p.Spec.NodeName = "bound", "bound"
	must(core.Pods("default").Create(ctx, p, metav1.CreateOptions{}))(t)

	tokens := map[string]string{}
	for _, kind := range []string{"Pod", "Secret", "Node"} {
		ref := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: "bound"}
		tokens[kind] = s.token(t, "bound", authenticationv1.TokenRequestSpec{BoundObjectRef: ref})
	}
	tokens["ServiceAccount"] = s.token(t, "bound", authenticationv1.TokenRequestSpec{})
	for kind, token := range tokens {
		user := must(whoami(t, s.bearer(t, token)))(t)
		if user.Username != "system:serviceaccount:default:bound" {
			t.Errorf("bound to a %s: %v", kind, user)
		}
		if kind == "Pod" && (user.Extra["authentication.kubernetes.io/pod-name"][0] != "bound" || user.Extra["authentication.kubernetes.io/node-name"][0] != "bound") {
			t.Errorf("the pod and its node are not told: %v", user.Extra)
		}
	}
	now := int64(0)
	for _, err := range []error{
		core.Pods("default").Delete(ctx, "bound", metav1.DeleteOptions{GracePeriodSeconds: &now}),
		core.Secrets("default").Delete(ctx, "bound", metav1.DeleteOptions{}),
		core.Nodes().Delete(ctx, "bound", metav1.DeleteOptions{}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(kind string) {
		t.Helper()
		eventually(t, "refusal of the token bound to a "+kind, func() bool {
			_, err := whoami(t, s.bearer(t, tokens[kind]))
			return apierrors.IsUnauthorized(err)
		})
		if status := s.review(t, tokens[kind]); status.Authenticated || status.Error == "" {
			t.Errorf("a review of the token bound to a %s: %+v", kind, status)
		}
	}
	for _, kind := range []string{"Pod", "Secret", "Node"} {
		refused(kind)
	}
	must(whoami(t, s.bearer(t, tokens["ServiceAccount"])))(t)
	if err := core.ServiceAccounts("default").Delete(ctx, "bound", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.serviceAccount(t, "bound") // another one of that name
	refused("ServiceAccount")
}

func TestTokenReviewKeepsAudiencesApart(t *testing.T) {
	s := shared
	s.serviceAccount(t, "audiences")
	token := s.token(t, "audiences", authenticationv1.TokenRequestSpec{Audiences: []string{"vault", "bank"}})
	if status := s.review(t, token, "bank", "church"); !status.Authenticated || len(status.Audiences) != 1 || status.Audiences[0] != "bank" {
		t.Errorf("for one of its audiences: %+v", status)
	}
	if status := s.review(t, token); status.Authenticated || !strings.Contains(status.Error, "invalid for the target audiences") {
		t.Errorf("for the server itself: %+v", status)
	}
	if _, err := whoami(t, s.bearer(t, token)); !apierrors.IsUnauthorized(err) {
		t.Errorf("used at the server: %v", err)
	}
}

// keyIDs are those that the server publishes.
func (s *testServer) keyIDs(t *testing.T) []string {
	t.Helper()
	_, body := s.raw(t, http.MethodGet, "/openid/v1/jwks", "", "", "")
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(body), &set); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, key := range set.Keys {
		ids = append(ids, key.KeyID)
	}
	return ids
}

func TestSigningKeyIsRotatedWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	public := filepath.Join(dir, "public.pem")
	read := func(name string) string { return string(must(os.ReadFile(filepath.Join(dir, "pki", name)))(t)) }
	s := newServer(t, dir, func(o *server.Options) {
		write(t, public, read("sa.pub"))
		o.ServiceAccount.KeyFiles = []string{public}
	})
	s.serviceAccount(t, "rotated")
	former := s.token(t, "rotated", authenticationv1.TokenRequestSpec{})

	other := t.TempDir()
	if err := pki.EnsureServer(other, pki.Server{Name: "x"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	write(t, s.pki("sa.key"), string(must(os.ReadFile(other+"/sa.key"))(t))) // its public half is not accepted yet: no effect
	write(t, public, read("sa.pub")+string(must(os.ReadFile(other+"/sa.pub"))(t)))
	eventually(t, "both keys published", func() bool { return len(s.keyIDs(t)) == 2 })
	id := must(satoken.ReadSigner(other + "/sa.key"))(t).KeyID()
	later := s.token(t, "rotated", authenticationv1.TokenRequestSpec{})
	if parsed, _, err := satoken.Parse(later); err != nil || satoken.SignedWith(parsed) != id {
		t.Errorf("signed with %s, want %s: %v", satoken.SignedWith(parsed), id, err)
	}
	must(whoami(t, s.bearer(t, later)))(t)
	must(whoami(t, s.bearer(t, former)))(t)

	write(t, public, string(must(os.ReadFile(other+"/sa.pub"))(t)))
	eventually(t, "the former key gone", func() bool { return len(s.keyIDs(t)) == 1 })
	unused := s.review(t, former, "other") // another audience is another entry of the cache
	if unused.Authenticated || !strings.Contains(unused.Error, "no keys found") {
		t.Errorf("a token of the former key: %+v", unused)
	}
	code, body := s.raw(t, http.MethodGet, "/.well-known/openid-configuration", "", "", "")
	if code != http.StatusOK || !strings.Contains(body, `"issuer":"https://kubernetes.default.svc.cluster.local"`) || !strings.Contains(body, `"jwks_uri":"https://192.0.2.1:`) {
		t.Errorf("discovery: %d %s", code, body)
	}
	if _, err := s.as(t, func(*rest.Config) {}).Discovery().RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(t.Context()); !apierrors.IsUnauthorized(err) {
		t.Errorf("the keys for nobody: %v", err)
	}
	if _, err := s.bearer(t, later).Discovery().RESTClient().Get().AbsPath("/openid/v1/jwks").SetHeader("Accept", "application/jwk-set+json").DoRaw(t.Context()); err != nil {
		t.Errorf("the keys for a service account: %v", err)
	}
}

func TestUseOfLegacyTokensIsTracked(t *testing.T) {
	s, ctx, secrets := shared, t.Context(), shared.client.CoreV1().Secrets("default")
	account := s.serviceAccount(t, "legacy")
	secret := must(secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "legacy", Annotations: map[string]string{corev1.ServiceAccountNameKey: "legacy", corev1.ServiceAccountUIDKey: string(account.UID)}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}, metav1.CreateOptions{}))(t)
	signer := must(satoken.ReadSigner(s.pki("sa.key")))(t)
	token := must(signer.Sign(satoken.LegacyClaims(account, secret)))(t)
	secret.Data = map[string][]byte{corev1.ServiceAccountTokenKey: []byte(token)}
	must(secrets.Update(ctx, secret, metav1.UpdateOptions{}))(t)

	today := time.Now().UTC().Format(time.DateOnly)
	must(whoami(t, s.bearer(t, token)))(t)
	secret = must(secrets.Get(ctx, "legacy", metav1.GetOptions{}))(t)
	if used := secret.Labels["kubernetes.io/legacy-token-last-used"]; used != today {
		t.Errorf("last use is noted as %q", used)
	}
	secret.Labels["kubernetes.io/legacy-token-invalid-since"] = today
	must(secrets.Update(ctx, secret, metav1.UpdateOptions{}))(t)
	eventually(t, "the mark seen", func() bool {
		status := s.review(t, token, "https://kubernetes.default.svc.cluster.local", fmt.Sprint(time.Now().UnixNano()))
		return !status.Authenticated && strings.Contains(status.Error, "has been marked invalid. Use tokens from the TokenRequest API")
	})
	tracking := must(s.client.CoreV1().ConfigMaps("kube-system").Get(ctx, "kube-apiserver-legacy-service-account-token-tracking", metav1.GetOptions{}))(t)
	if tracking.Data["since"] != today {
		t.Errorf("tracked since %q", tracking.Data["since"])
	}
	_, metrics := s.raw(t, http.MethodGet, "/metrics", "", "", "")
	for _, want := range []string{"serviceaccount_legacy_manual_token_uses_total", "serviceaccount_invalid_legacy_auto_token_uses_total", "serviceaccount_valid_tokens_total"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no metric %s", want)
		}
	}
}

// fakeSigner is a process that signs tokens in place of the server.
type fakeSigner struct {
	externaljwt.UnimplementedExternalJWTSignerServer
	mu   sync.Mutex
	keys []*externaljwt.Key
	id   string
	key  *ecdsa.PrivateKey
}

// rotate signs with a new key from now on; former ones verify without being published.
func (f *fakeSigner) rotate(t *testing.T, id string) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, former := range f.keys {
		former.ExcludeFromOidcDiscovery = true
	}
	f.id, f.key = id, key
	f.keys = append(f.keys, &externaljwt.Key{KeyId: id, Key: must(x509.MarshalPKIXPublicKey(key.Public()))(t)})
}

func (f *fakeSigner) Sign(_ context.Context, request *externaljwt.SignJWTRequest) (*externaljwt.SignJWTResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	payload, err := base64.RawURLEncoding.DecodeString(request.Claims)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: f.key, KeyID: f.id}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return nil, err
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		return nil, err
	}
	parts := strings.Split(text, ".")
	return &externaljwt.SignJWTResponse{Header: parts[0], Signature: parts[2]}, nil
}

func (f *fakeSigner) FetchKeys(context.Context, *externaljwt.FetchKeysRequest) (*externaljwt.FetchKeysResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &externaljwt.FetchKeysResponse{Keys: f.keys, DataTimestamp: timestamppb.Now(), RefreshHintSeconds: 1}, nil
}

func (*fakeSigner) Metadata(context.Context, *externaljwt.MetadataRequest) (*externaljwt.MetadataResponse, error) {
	return &externaljwt.MetadataResponse{MaxTokenExpirationSeconds: 7200}, nil
}

func TestExternalSigner(t *testing.T) {
	fake := &fakeSigner{}
	fake.rotate(t, "first")
	socket := filepath.Join(t.TempDir(), "signer.sock")
	listener := must(net.Listen("unix", socket))(t)
	service := grpc.NewServer()
	externaljwt.RegisterExternalJWTSignerServer(service, fake)
	go func() {
		if err := service.Serve(listener); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(service.Stop)
	s := newServer(t, t.TempDir(), func(o *server.Options) {
		o.ServiceAccount.SigningKeyFile, o.ServiceAccount.SigningEndpoint = "", socket
	})
	s.serviceAccount(t, "external")
	long := int64(86400)
	issued := must(s.client.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "external",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &long}}, metav1.CreateOptions{}))(t)
	if life := time.Until(issued.Status.ExpirationTimestamp.Time); life > 2*time.Hour {
		t.Errorf("lives %v, the signer allows two hours", life)
	}
	user := must(whoami(t, s.bearer(t, issued.Status.Token)))(t)
	if user.Username != "system:serviceaccount:default:external" {
		t.Errorf("user %v", user)
	}
	fake.rotate(t, "second")
	later := s.token(t, "external", authenticationv1.TokenRequestSpec{})
	if parsed, _, err := satoken.Parse(later); err != nil || satoken.SignedWith(parsed) != "second" {
		t.Errorf("signed with %s: %v", satoken.SignedWith(parsed), err)
	}
	must(whoami(t, s.bearer(t, later)))(t)
	if ids := s.keyIDs(t); len(ids) != 1 || ids[0] != "second" {
		t.Errorf("published keys %v", ids)
	}
	if status := s.review(t, issued.Status.Token); !status.Authenticated {
		t.Errorf("a token of the former key: %+v", status)
	}
}
