package tokens

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/emicklei/go-restful/v3"
	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"keelson.dev/internal/satoken"
)

const issuer = "https://kubernetes.default.svc"

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a few objects that tokens are bound to; it answers both for the authenticator and for the token subresource.
type world struct {
	sa     *corev1.ServiceAccount
	pod    *corev1.Pod
	secret *corev1.Secret
	node   *corev1.Node
}

func newWorld() *world {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "uid-1"}
	}
	w := &world{
		sa: &corev1.ServiceAccount{ObjectMeta: meta("sa")}, secret: &corev1.Secret{ObjectMeta: meta("secret")},
		pod:  &corev1.Pod{ObjectMeta: meta("pod"), Spec: corev1.PodSpec{ServiceAccountName: "sa", NodeName: "node"}},
		node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", UID: "uid-1"}},
	}
	w.secret.Type = corev1.SecretTypeServiceAccountToken
	w.secret.Annotations = map[string]string{corev1.ServiceAccountNameKey: "sa"}
	return w
}

func found[T runtime.Object](obj T, missing bool, resource, name string) (T, error) {
	if missing {
		var none T
		return none, apierrors.NewNotFound(corev1.Resource(resource), name)
	}
	return obj, nil
}

func (w *world) ServiceAccount(_ context.Context, _, name string) (*corev1.ServiceAccount, error) {
	return found(w.sa, w.sa == nil || w.sa.Name != name, "serviceaccounts", name)
}

func (w *world) Pod(_ context.Context, _, name string) (*corev1.Pod, error) {
	return found(w.pod, w.pod == nil || w.pod.Name != name, "pods", name)
}

func (w *world) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	return found(w.secret, w.secret == nil || w.secret.Name != name, "secrets", name)
}

func (w *world) LabelSecret(_ context.Context, secret *corev1.Secret, key, value string) error {
	if secret.UID != w.secret.UID {
		return apierrors.NewConflict(corev1.Resource("secrets"), secret.Name, nil)
	}
	metav1.SetMetaDataLabel(&w.secret.ObjectMeta, key, value)
	return nil
}

func (w *world) Node(_ context.Context, name string) (*corev1.Node, error) {
	return found(w.node, w.node == nil || w.node.Name != name, "nodes", name)
}

type getter func(ctx context.Context, name string) (runtime.Object, error)

func (g getter) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	return g(ctx, name)
}

// bench is an authenticator and a token subresource over one world and one clock.
type bench struct {
	*world
	clock  *clocktesting.FakePassiveClock
	signer *satoken.Signer
	auth   *Authenticator
	rest   rest.NamedCreater
}

func newBench(t *testing.T) *bench {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := satoken.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := satoken.NewKeySet(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	b := &bench{world: w, signer: signer, clock: clocktesting.NewFakePassiveClock(start)}
	own := authenticator.Audiences{"api"}
	pair := &KeyFiles{}
	pair.current.Store(&keyPair{signer: signer, keys: keys})
	b.auth = &Authenticator{Issuers: []string{issuer}, Keys: pair, Audiences: own, Objects: w, Clock: b.clock}
	b.rest = NewREST(RESTConfig{
		Issuer: issuer, Signer: pair, Audiences: own, ExtendExpiration: true, Clock: b.clock,
		ServiceAccounts: getter(func(ctx context.Context, n string) (runtime.Object, error) { return w.ServiceAccount(ctx, "", n) }),
		Pods:            getter(func(ctx context.Context, n string) (runtime.Object, error) { return w.Pod(ctx, "", n) }),
		Secrets:         getter(func(ctx context.Context, n string) (runtime.Object, error) { return w.Secret(ctx, "", n) }),
		Nodes:           getter(func(ctx context.Context, n string) (runtime.Object, error) { return w.Node(ctx, n) }),
	}).(rest.NamedCreater)
	return b
}

func (b *bench) request(spec authenticationv1.TokenRequestSpec) (*authenticationv1.TokenRequest, error) {
	ctx := genericapirequest.WithNamespace(context.Background(), "ns")
	out, err := b.rest.Create(ctx, "sa", &authenticationv1.TokenRequest{Spec: spec}, nil, &metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return out.(*authenticationv1.TokenRequest), nil
}

func bound(kind, name string) *authenticationv1.BoundObjectReference {
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name}
}

func TestRevocation(t *testing.T) {
	soon, longAgo := metav1.NewTime(start), metav1.NewTime(start.Add(-2*time.Minute))
	cases := map[string]struct {
		bound  *authenticationv1.BoundObjectReference
		change func(*bench)
		want   string // part of the error; empty: accepted
	}{
		"nothing happened":         {bound("Pod", "pod"), func(*bench) {}, ""},
		"expired":                  {nil, func(b *bench) { b.clock.SetTime(start.Add(2 * time.Hour)) }, "service account token has expired"},
		"within leeway":            {nil, func(b *bench) { b.clock.SetTime(start.Add(time.Hour + 30*time.Second)) }, ""},
		"account gone":             {nil, func(b *bench) { b.sa = nil }, "not found"},
		"account made again":       {nil, func(b *bench) { b.sa.UID = "uid-2" }, "ServiceAccount UID (uid-2) does not match claim (uid-1)"},
		"pod gone":                 {bound("Pod", "pod"), func(b *bench) { b.pod = nil }, "service account token has been invalidated"},
		"pod made again":           {bound("Pod", "pod"), func(b *bench) { b.pod.UID = "uid-2" }, "Pod UID (uid-2) does not match claim (uid-1)"},
		"pod shutting down":        {bound("Pod", "pod"), func(b *bench) { b.pod.DeletionTimestamp = &soon }, ""},
		"pod long since deleted":   {bound("Pod", "pod"), func(b *bench) { b.pod.DeletionTimestamp = &longAgo }, "invalidated"},
		"node of pod is gone":      {bound("Pod", "pod"), func(b *bench) { b.node = nil }, ""},
		"secret gone":              {bound("Secret", "secret"), func(b *bench) { b.secret = nil }, "invalidated"},
		"node gone":                {bound("Node", "node"), func(b *bench) { b.node = nil }, "invalidated"},
		"keys exchanged":           {nil, func(b *bench) { b.auth.Keys = newBench(t).auth.Keys }, "no keys found"},
		"issuer is not ours":       {nil, func(b *bench) { b.auth.Issuers = nil }, "nobody"},
		"lookups are switched off": {bound("Pod", "pod"), func(b *bench) { b.pod, b.auth.Objects = nil, nil }, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			request, err := b.request(authenticationv1.TokenRequestSpec{BoundObjectRef: c.bound})
			if err != nil {
				t.Fatal(err)
			}
			c.change(b)
			response, ok, err := b.auth.AuthenticateToken(context.Background(), request.Status.Token)
			switch {
			case c.want == "nobody":
				if ok || err != nil {
					t.Errorf("got %v %v", ok, err)
				}
			case c.want == "":
				if !ok || response.User.GetName() != "system:serviceaccount:ns:sa" {
					t.Errorf("got %v %v", response, err)
				}
			case err == nil || !strings.Contains(err.Error(), c.want):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestUserOfPodToken(t *testing.T) {
	b := newBench(t)
	request, err := b.request(authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "pod")})
	if err != nil {
		t.Fatal(err)
	}
	response, _, err := b.auth.AuthenticateToken(context.Background(), request.Status.Token)
	if err != nil {
		t.Fatal(err)
	}
	extra := response.User.GetExtra()
	if id := extra["authentication.kubernetes.io/credential-id"]; len(id) != 1 || !strings.HasPrefix(id[0], "JTI=") {
		t.Errorf("credential id: %v", id)
	}
	delete(extra, "authentication.kubernetes.io/credential-id")
	want := map[string][]string{
		"authentication.kubernetes.io/pod-name": {"pod"}, "authentication.kubernetes.io/pod-uid": {"uid-1"},
		"authentication.kubernetes.io/node-name": {"node"}, "authentication.kubernetes.io/node-uid": {"uid-1"},
	}
	if diff := cmp.Diff(want, extra); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"system:serviceaccounts", "system:serviceaccounts:ns"}, response.User.GetGroups()); diff != "" {
		t.Error(diff)
	}
}

func TestAudiences(t *testing.T) {
	cases := map[string]struct {
		token, asked []string
		want         []string // nil: refused
	}{
		"own":              {nil, nil, []string{"api"}},
		"foreign":          {[]string{"vault"}, nil, nil},
		"foreign, asked":   {[]string{"vault"}, []string{"vault"}, []string{"vault"}},
		"one of several":   {[]string{"vault", "api"}, nil, []string{"api"}},
		"another is asked": {[]string{"vault"}, []string{"bank"}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			request, err := b.request(authenticationv1.TokenRequestSpec{Audiences: c.token})
			if err != nil {
				t.Fatal(err)
			}
			ctx := context.Background()
			if c.asked != nil {
				ctx = authenticator.WithAudiences(ctx, c.asked)
			}
			response, ok, err := b.auth.AuthenticateToken(ctx, request.Status.Token)
			if ok != (c.want != nil) {
				t.Fatalf("got %v %v", ok, err)
			}
			if ok {
				if diff := cmp.Diff(authenticator.Audiences(c.want), response.Audiences); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestTokenRequest(t *testing.T) {
	withUID := bound("Pod", "pod")
	withUID.UID = "uid-9"
	cases := map[string]struct {
		spec    authenticationv1.TokenRequestSpec
		change  func(*bench)
		refused func(error) bool
		told    time.Duration // until the expiration that is told
		real    time.Duration // until the token's own; 0: the same
	}{
		"default":            {told: time.Hour},
		"asked":              {spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](1200)}, told: 20 * time.Minute},
		"too short":          {spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](599)}, refused: apierrors.IsInvalid},
		"too long":           {spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](1<<32 + 1)}, refused: apierrors.IsInvalid},
		"standard volume":    {spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3607), BoundObjectRef: bound("Pod", "pod")}, told: 3607 * time.Second, real: 365 * 24 * time.Hour},
		"other audience":     {spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3607), BoundObjectRef: bound("Pod", "pod"), Audiences: []string{"x"}}, told: 3607 * time.Second},
		"unknown pod":        {spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "x")}, refused: apierrors.IsNotFound},
		"former pod":         {spec: authenticationv1.TokenRequestSpec{BoundObjectRef: withUID}, refused: apierrors.IsConflict},
		"pod of another":     {spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "pod")}, change: func(b *bench) { b.pod.Spec.ServiceAccountName = "other" }, refused: apierrors.IsBadRequest},
		"unknown kind":       {spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("ConfigMap", "x")}, refused: apierrors.IsBadRequest},
		"pod without node":   {spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "pod")}, change: func(b *bench) { b.pod.Spec.NodeName = "" }, told: time.Hour},
		"pod of former node": {spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "pod")}, change: func(b *bench) { b.node = nil }, told: time.Hour},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if c.change != nil {
				c.change(b)
			}
			out, err := b.request(c.spec)
			if c.refused != nil {
				if err == nil || !c.refused(err) {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := out.Status.ExpirationTimestamp.Sub(start); got != c.told {
				t.Errorf("told %v, want %v", got, c.told)
			}
			_, claims, err := satoken.Parse(out.Status.Token)
			if err != nil {
				t.Fatal(err)
			}
			if c.real == 0 {
				c.real = c.told
			}
			if payload, err := base64.RawURLEncoding.DecodeString(strings.Split(out.Status.Token, ".")[1]); err != nil || !strings.Contains(string(payload), `"aud":[`) {
				t.Errorf("the audiences are no list: %s %v", payload, err)
			}
			if got := claims.Expiry.Time().Sub(start); got != c.real {
				t.Errorf("lives %v, want %v", got, c.real)
			}
			if (claims.Kubernetes.WarnAfter != nil) != (c.real != c.told) {
				t.Errorf("unexpected warning time %v", claims.Kubernetes.WarnAfter)
			}
		})
	}
}

func TestLegacyToken(t *testing.T) {
	label := func(key, value string) func(*bench) {
		return func(b *bench) { b.secret.Labels = map[string]string{key: value} }
	}
	cases := map[string]struct {
		change func(*bench)
		want   bool
		used   string // the day of the last use as it stands on the secret
	}{
		"valid":                 {func(*bench) {}, true, "2026-01-01"},
		"used before":           {label(lastUsed, "2025-12-24"), true, "2026-01-01"},
		"a clock that is ahead": {label(lastUsed, "2026-01-02"), true, "2026-01-02"},
		"secret gone":           {func(b *bench) { b.secret = nil }, false, ""},
		"token replaced":        {func(b *bench) { b.secret.Data = map[string][]byte{"token": []byte("x")} }, false, ""},
		"marked as invalid":     {label(invalidSince, "2026-01-01"), false, "2026-01-01"},
		"of another account":    {func(b *bench) { b.secret.Annotations[corev1.ServiceAccountNameKey] = "other" }, false, ""},
		"account made again":    {func(b *bench) { b.sa.UID = "uid-2" }, false, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			token, err := b.signer.Sign(satoken.LegacyClaims(b.sa, b.secret))
			if err != nil {
				t.Fatal(err)
			}
			b.secret.Data = map[string][]byte{"token": []byte(token)}
			c.change(b)
			if _, ok, err := b.auth.AuthenticateToken(context.Background(), token); ok != c.want {
				t.Errorf("got %v %v", ok, err)
			}
			if b.secret == nil {
				return
			}
			if used := b.secret.Labels[lastUsed]; used != c.used {
				t.Errorf("last use is noted as %q, want %q", used, c.used)
			}
		})
	}
}

func TestDiscovery(t *testing.T) {
	b := newBench(t)
	d, err := NewDiscovery(issuer, "", "10.0.0.1:6443", b.auth.Keys)
	if err != nil {
		t.Fatal(err)
	}
	mux := restful.NewContainer()
	d.Install(mux)
	get := func(path string) (out map[string]any) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := map[string]any{
		"issuer": issuer, "jwks_uri": "https://10.0.0.1:6443/openid/v1/jwks", "response_types_supported": []any{"id_token"},
		"subject_types_supported": []any{"public"}, "id_token_signing_alg_values_supported": []any{"ES256"},
	}
	if diff := cmp.Diff(want, get(DiscoveryPath)); diff != "" {
		t.Error(diff)
	}
	key := get(KeysPath)["keys"].([]any)[0].(map[string]any)
	if key["use"] != "sig" || key["alg"] != "ES256" || key["d"] != nil {
		t.Errorf("unexpected key %v", key)
	}
	if _, err := NewDiscovery("kubernetes", "", "x", b.auth.Keys); err == nil {
		t.Error("an issuer that is no https URL was accepted")
	}
}
