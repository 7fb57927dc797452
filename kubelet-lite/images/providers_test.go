package images

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	testingclock "k8s.io/utils/clock/testing"
)

// program writes a provider that logs its requests and answers with its number of runs as the password.
func program(t *testing.T, bin, name, cacheKey, rest string) {
	t.Helper()
	text := fmt.Sprintf(`#!/bin/sh
cat >>%[1]s/requests; echo >>%[1]s/requests
n=$(grep -c . %[1]s/requests)
echo '{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"%[2]s",%[3]s"auth":{"*.example.com":{"username":"'$WHO$1'","password":"'$n'"}}}'
`, bin, cacheKey, rest)
	if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, bin, providers string, objects ...runtime.Object) (*Provider, *testingclock.FakeClock, error) {
	t.Helper()
	path := filepath.Join(bin, "config.yaml")
	text := "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n" + providers
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	client, clk := fake.NewClientset(objects...), testingclock.NewFakeClock(time.Now())
	client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
		request := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest)
		request.Status.Token = "token-for-" + request.Spec.Audiences[0] + "-" + request.Spec.BoundObjectRef.Name
		return true, request, nil
	})
	all, err := LoadProviders(path, bin, client, clk)
	if err != nil {
		return nil, nil, err
	}
	return all[0], clk, nil
}

const plain = `- {name: p, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: ["*.example.com"], defaultCacheDuration: 1m, args: [x], env: [{name: WHO, value: me}]}`

func passwords(t *testing.T, p *Provider, pod *corev1.Pod, images ...string) (out []string) {
	t.Helper()
	for _, image := range images {
		auths, err := p.credentials(t.Context(), pod, image)
		if err != nil {
			t.Fatal(err)
		}
		text := "none"
		if len(auths) > 0 {
			text = auths[0].Username + " " + auths[0].Password
		}
		out = append(out, text)
	}
	return out
}

func TestProviderCache(t *testing.T) {
	for name, c := range map[string]struct {
		cacheKey, rest string
		images         []string
		want           []string
		later          string // after the cache duration
	}{
		"by image":     {"Image", "", []string{"a.example.com/x", "a.example.com/x", "a.example.com/y", "other.org/x"}, []string{"mex 1", "mex 1", "mex 2", "none"}, "mex 3"},
		"by registry":  {"Registry", "", []string{"a.example.com/x", "a.example.com/y", "b.example.com/x"}, []string{"mex 1", "mex 1", "mex 2"}, "mex 3"},
		"for all":      {"Global", "", []string{"a.example.com/x", "b.example.com/y", "a.b.example.com/x"}, []string{"mex 1", "mex 1", "none"}, "mex 2"},
		"not kept":     {"Image", `"cacheDuration":"0s",`, []string{"a.example.com/x", "a.example.com/x"}, []string{"mex 1", "mex 2"}, "mex 3"},
		"kept longer":  {"Image", `"cacheDuration":"1h",`, []string{"a.example.com/x"}, []string{"mex 1"}, "mex 1"},
		"only subpath": {"Image", "", []string{"example.com/x"}, []string{"none"}, "mex 1"},
	} {
		t.Run(name, func(t *testing.T) {
			bin := t.TempDir()
			program(t, bin, "p", c.cacheKey, c.rest)
			p, clk, err := load(t, bin, plain)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, passwords(t, p, &corev1.Pod{}, c.images...)); diff != "" {
				t.Error(diff)
			}
			clk.Step(2 * time.Minute)
			if got := passwords(t, p, &corev1.Pod{}, "a.example.com/x"); got[0] != c.later {
				t.Errorf("later: want %s, got %s", c.later, got[0])
			}
		})
	}
}

// A provider that gives by service account is asked with its token and annotations, and its answers are not given to others.
func TestProviderOfServiceAccounts(t *testing.T) {
	bin := t.TempDir()
	program(t, bin, "p", "Registry", "")
	account := func(name string, annotations map[string]string) *corev1.ServiceAccount {
		return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Annotations: annotations}}
	}
	p, _, err := load(t, bin, plain[:len(plain)-1]+`, tokenAttributes: {serviceAccountTokenAudience: reg, cacheType: ServiceAccount, requireServiceAccount: true, requiredServiceAccountAnnotationKeys: [role]}}`,
		account("a", map[string]string{"role": "r1", "else": "no"}), account("b", map[string]string{"role": "r2"}), account("out", nil))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, name := range []string{"a", "b", "a", "out", ""} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod-of-" + name}, Spec: corev1.PodSpec{ServiceAccountName: name}}
		got = append(got, passwords(t, p, pod, "a.example.com/x")...)
	}
	if diff := cmp.Diff([]string{"mex 1", "mex 2", "mex 1", "none", "none"}, got); diff != "" {
		t.Error(diff)
	}
	requests, err := os.ReadFile(filepath.Join(bin, "requests"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(requests), "\n")
	want := `{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"a.example.com/x","serviceAccountToken":"token-for-reg-pod-of-a","serviceAccountAnnotations":{"role":"r1"}}`
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
}

func TestBadProviders(t *testing.T) {
	for name, c := range map[string]struct{ config, answer, want string }{
		"no such program":      {config: strings.Replace(plain, "name: p", "name: q", 1), want: "no such file"},
		"a path as the name":   {config: strings.Replace(plain, "name: p", "name: a/p", 1), want: "not that of a program"},
		"unknown version":      {config: strings.Replace(plain, "io/v1,", "io/v9,", 1), want: "v9"},
		"unknown field":        {config: strings.Replace(plain, "args:", "argz:", 1), want: "argz"},
		"no duration":          {config: strings.Replace(plain, "defaultCacheDuration: 1m,", "", 1), want: "defaultCacheDuration"},
		"answers rubbish":      {config: plain, answer: "echo secret", want: "not JSON"},
		"answers other things": {config: plain, answer: `echo '{"kind":"Pod","apiVersion":"v1"}'`, want: "v1 Pod"},
		"fails":                {config: plain, answer: "echo broken >&2; exit 3", want: "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			bin := t.TempDir()
			if err := os.WriteFile(filepath.Join(bin, "p"), []byte("#!/bin/sh\n"+c.answer+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			p, _, err := load(t, bin, c.config)
			if err == nil {
				_, err = p.credentials(t.Context(), &corev1.Pod{}, "a.example.com/x")
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}
