package bootstrap

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cluster-bootstrap/token/jws"
)

func TestSigned(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	token := func(id string, more map[string]string) *corev1.Secret {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Data: map[string][]byte{
			"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-signing": []byte("true"),
		}}
		for key, value := range more {
			secret.Data[key] = []byte(value)
		}
		return secret
	}
	cases := map[string]struct {
		tokens []*corev1.Secret
		want   []string
	}{
		"none: old signatures go": {nil, []string{"kubeconfig"}},
		"one":                     {[]*corev1.Secret{token("abcdef", nil)}, []string{"jws-kubeconfig-abcdef", "kubeconfig"}},
		"not for signing":         {[]*corev1.Secret{token("abcdef", map[string]string{"usage-bootstrap-signing": "false"})}, []string{"kubeconfig"}},
		"expired":                 {[]*corev1.Secret{token("abcdef", map[string]string{"expiration": now.Add(-time.Second).Format(time.RFC3339)})}, []string{"kubeconfig"}},
		"not expired":             {[]*corev1.Secret{token("abcdef", map[string]string{"expiration": now.Add(time.Hour).Format(time.RFC3339)})}, []string{"jws-kubeconfig-abcdef", "kubeconfig"}},
		"unreadable expiration":   {[]*corev1.Secret{token("abcdef", map[string]string{"expiration": "soon"})}, []string{"kubeconfig"}},
		"name of another token":   {[]*corev1.Secret{token("abcdef", map[string]string{"token-id": "zzzzzz"})}, []string{"kubeconfig"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := signed(map[string]string{"kubeconfig": "content", "jws-kubeconfig-old": "x"}, tc.tokens, now)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, slices.Sorted(maps.Keys(got))); diff != "" {
				t.Error(diff)
			}
			if s, ok := got["jws-kubeconfig-abcdef"]; ok && !jws.DetachedTokenIsValid(s, "content", "abcdef", "0123456789abcdef") {
				t.Error("the signature does not hold")
			}
		})
	}
}
