package satokens

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/internal/satoken"
)

func TestFill(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "robot", UID: "u"}}
	full := map[string][]byte{"token": []byte("old"), "ca.crt": []byte("CA"), "namespace": []byte("ns")}
	cases := map[string]struct {
		data map[string][]byte
		uid  string
		want map[string][]byte // nil: nothing to do
	}{
		"empty":     {nil, "", map[string][]byte{"token": []byte("robot/s"), "ca.crt": []byte("CA"), "namespace": []byte("ns")}},
		"full":      {full, "u", nil},
		"no uid":    {full, "", full},
		"old CA":    {map[string][]byte{"token": []byte("old"), "ca.crt": []byte("other"), "namespace": []byte("ns")}, "u", full},
		"own extra": {map[string][]byte{"mine": []byte("x")}, "u", map[string][]byte{"mine": []byte("x"), "token": []byte("robot/s"), "ca.crt": []byte("CA"), "namespace": []byte("ns")}},
	}
	sign := func(c satoken.Claims) (string, error) { return c.LegacyName + "/" + c.LegacySecretName, nil }
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: tc.data}
			if tc.uid != "" {
				secret.Annotations = map[string]string{corev1.ServiceAccountUIDKey: tc.uid}
			}
			filled, err := fill(secret, account, []byte("CA"), sign)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string][]byte
			if filled != nil {
				got = filled.Data
				if filled.Annotations[corev1.ServiceAccountUIDKey] != "u" {
					t.Error("the secret does not name its account's uid")
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBelongs(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{UID: "new"}}
	for uid, want := range map[string]bool{"": true, "new": true, "old": false} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{corev1.ServiceAccountUIDKey: uid}}}
		if got := belongs(secret, account); got != want {
			t.Errorf("belongs(%q) = %v, want %v", uid, got, want)
		}
	}
}
