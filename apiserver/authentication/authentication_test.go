package authentication

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"
	clocktesting "k8s.io/utils/clock/testing"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func tokenSecret(change func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"}, Type: corev1.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"),
		},
	}
	if change != nil {
		change(s)
	}
	return s
}

func TestBootstrapTokens(t *testing.T) {
	data := func(key, value string) func(*corev1.Secret) {
		return func(s *corev1.Secret) { s.Data[key] = []byte(value) }
	}
	cases := map[string]struct {
		token  string
		secret *corev1.Secret
		groups []string // nil: refused
	}{
		"valid":         {"abcdef.0123456789abcdef", tokenSecret(nil), []string{"system:bootstrappers"}},
		"more groups":   {"abcdef.0123456789abcdef", tokenSecret(data("auth-extra-groups", "system:bootstrappers:a")), []string{"system:bootstrappers", "system:bootstrappers:a"}},
		"bad group":     {"abcdef.0123456789abcdef", tokenSecret(data("auth-extra-groups", "system:masters")), nil},
		"wrong secret":  {"abcdef.0123456789abcdee", tokenSecret(nil), nil},
		"unknown id":    {"abcdeg.0123456789abcdef", tokenSecret(nil), nil},
		"malformed":     {"abcdef", tokenSecret(nil), nil},
		"expired":       {"abcdef.0123456789abcdef", tokenSecret(data("expiration", "2025-12-31T23:59:59Z")), nil},
		"not yet":       {"abcdef.0123456789abcdef", tokenSecret(data("expiration", "2026-01-01T00:00:01Z")), []string{"system:bootstrappers"}},
		"other usage":   {"abcdef.0123456789abcdef", tokenSecret(data("usage-bootstrap-authentication", "false")), nil},
		"other type":    {"abcdef.0123456789abcdef", tokenSecret(func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }), nil},
		"being deleted": {"abcdef.0123456789abcdef", tokenSecret(func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: now} }), nil},
		"other id":      {"abcdef.0123456789abcdef", tokenSecret(data("token-id", "abcdeg")), nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := &bootstrapTokens{client: fake.NewClientset(c.secret), clock: clocktesting.NewFakePassiveClock(now)}
			response, ok, err := b.AuthenticateToken(context.Background(), c.token)
			if err != nil || ok != (c.groups != nil) {
				t.Fatalf("got %v %v", ok, err)
			}
			if !ok {
				return
			}
			if diff := cmp.Diff(c.groups, response.User.GetGroups()); diff != "" || response.User.GetName() != "system:bootstrap:abcdef" {
				t.Error(diff, response.User.GetName())
			}
		})
	}
}

func ask(t *testing.T, cfg Config) func(path, token string) (user string, err error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	auth, _, err := New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return func(path, token string) (string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://x"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, ok, err := auth.AuthenticateRequest(request)
		if !ok {
			return "", err
		}
		return response.User.GetName(), err
	}
}

func TestAnonymousIsHeldToHealth(t *testing.T) {
	ask := ask(t, Config{BootstrapTokens: fake.NewClientset(tokenSecret(nil)), Clock: clocktesting.NewFakePassiveClock(now)})
	cases := map[string]struct{ path, token, want string }{
		"health":                 {"/readyz", "", "system:anonymous"},
		"elsewhere":              {"/api", "", ""},
		"with a good token":      {"/api", "abcdef.0123456789abcdef", "system:bootstrap:abcdef"},
		"with a bad token":       {"/readyz", "abcdef.0123456789abcdee", ""},
		"below a health address": {"/readyz/ping", "", ""},
	}
	for name, c := range cases {
		if got, err := ask(c.path, c.token); got != c.want {
			t.Errorf("%s: got %q %v, want %q", name, got, err, c.want)
		}
	}
}

func TestConfigurationIsReloaded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "authentication.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("anonymous:\n  enabled: true\n  conditions: [{path: /one}]\n")
	ask := ask(t, Config{ConfigFile: file})
	reaches := func(path string, want bool) bool {
		got, _ := ask(path, "")
		return (got == "system:anonymous") == want
	}
	if !reaches("/one", true) || !reaches("/two", false) {
		t.Fatal("the file is not what decides")
	}
	write("anonymous:\n  enabled: true\n  conditions: [{path: /two}]\n")
	err := wait.PollUntilContextTimeout(context.Background(), 10*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
		return reaches("/one", false) && reaches("/two", true), nil
	})
	if err != nil {
		t.Fatal("the new file was not taken")
	}
	write("nonsense: true\n")
	if !reaches("/two", true) {
		t.Error("a bad file put the former one out of use")
	}
}

func TestConfigurationErrors(t *testing.T) {
	for name, text := range map[string]string{
		"unknown field":  "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nx: 1\n",
		"other kind":     "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n",
		"bad issuer":     "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt: [{issuer: {url: 'http://x', audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}]\n",
		"our own issuer": "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt: [{issuer: {url: 'https://own', audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}]\n",
	} {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := New(context.Background(), Config{ConfigFile: file, ServiceAccountIssuers: []string{"https://own"}}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestOIDCFlags(t *testing.T) {
	if one, err := (OIDCFlags{}).Issuer(); one != nil || err != nil {
		t.Errorf("no flags: %v %v", one, err)
	}
	if _, err := (OIDCFlags{IssuerURL: "https://x"}).Issuer(); err == nil {
		t.Error("an issuer without client ID was accepted")
	}
	for name, c := range map[string]struct{ claim, prefix, want string }{
		"other claim": {"sub", "", "https://x#"}, "mail": {"email", "", ""}, "none": {"sub", "-", ""}, "own": {"sub", "o:", "o:"},
	} {
		one, err := OIDCFlags{IssuerURL: "https://x", ClientID: "c", UsernameClaim: c.claim, UsernamePrefix: c.prefix}.Issuer()
		if err != nil || *one.ClaimMappings.Username.Prefix != c.want {
			t.Errorf("%s: %v %v", name, one, err)
		}
	}
}
