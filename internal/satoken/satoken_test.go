package satoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func signerFor(t *testing.T, key crypto.PrivateKey, err error) *Signer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func keySet(t *testing.T, signers ...*Signer) *KeySet {
	t.Helper()
	var public []crypto.PublicKey
	for _, s := range signers {
		public = append(public, s.Public())
	}
	set, err := NewKeySet(public...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestRotation follows a change of keys: the new one is made known first, then signs, then the old one goes.
func TestRotation(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	old := signerFor(t, rsaKey, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	fresh := signerFor(t, ecKey, err)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "u"}}
	sign := func(s *Signer) string {
		token, err := s.Sign(BoundClaims("https://x", time.Now(), Request{ServiceAccount: account, Lifetime: time.Hour}))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	cases := map[string]struct {
		token string
		keys  *KeySet
		want  bool
	}{
		"old before":          {sign(old), keySet(t, old), true},
		"old while both":      {sign(old), keySet(t, fresh, old), true},
		"new while both":      {sign(fresh), keySet(t, fresh, old), true},
		"old afterwards":      {sign(old), keySet(t, fresh), false},
		"new is not known":    {sign(fresh), keySet(t, old), false},
		"the same key, twice": {sign(old), keySet(t, old, old), true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			parsed, _, err := Parse(c.token)
			if err != nil {
				t.Fatal(err)
			}
			claims, err := Verify(parsed, c.keys)
			if (err == nil) != c.want {
				t.Fatalf("got %v", err)
			}
			if err == nil && claims.Subject != "system:serviceaccount:ns:sa" {
				t.Errorf("subject %s", claims.Subject)
			}
		})
	}
	if n := len(keySet(t, old, old, fresh).JWKS().Keys); n != 2 {
		t.Errorf("%d keys are published instead of 2", n)
	}
}

func TestAudienceForms(t *testing.T) {
	for text, want := range map[string]Audience{`{"aud":"a"}`: {"a"}, `{"aud":["a","b"]}`: {"a", "b"}, `{}`: nil} {
		var claims Claims
		if err := json.Unmarshal([]byte(text), &claims); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, claims.Audience); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestUnsupportedKeys(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSigner(key); err == nil {
		t.Error("a curve without algorithm was accepted")
	}
	if _, err := NewSigner("no key"); err == nil {
		t.Error("no key was accepted")
	}
}
