package bootstraptoken

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/internal/pki"
)

// TestAuthority has servers of the cluster that is meant, of another, and one that shows what others may show too.
func TestAuthority(t *testing.T) {
	ours, oursPEM, err := pki.NewAuthority("kubernetes", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, otherPEM, err := pki.NewAuthority("kubernetes", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	hash, err := HashPEM(oursPEM.CertPEM)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		issuer     *pki.Authority
		serverName string
		shown      []byte
		ok         bool
	}{
		"Ours":                     {ours, "kubernetes", oursPEM.CertPEM, true},
		"WithoutAuthority":         {ours, "kubernetes", nil, false},
		"AnotherCluster":           {other, "kubernetes", otherPEM.CertPEM, false},
		"AnotherShowsOurAuthority": {other, "kubernetes", oursPEM.CertPEM, false},
		"OurNode":                  {ours, "worker-1", oursPEM.CertPEM, false},
	} {
		t.Run(name, func(t *testing.T) {
			pair, err := c.issuer.Issue(pki.Request{CommonName: c.serverName, DNSNames: []string{c.serverName}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			certificate, err := tls.X509KeyPair(slices.Concat(pair.CertPEM, c.shown), pair.KeyPEM)
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewUnstartedServer(nil)
			server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
			server.StartTLS()
			defer server.Close()
			got, err := Authority(t.Context(), server.Listener.Addr().String(), "kubernetes", hash)
			if c.ok != (err == nil) || !c.ok && !errors.Is(err, ErrAuthority) {
				t.Fatal(err)
			}
			if c.ok && !bytes.Equal(got, oursPEM.CertPEM) {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestSeal(t *testing.T) {
	files := map[string][]byte{"ca.key": []byte("secret"), "ca.crt": []byte("public")}
	key := bytes.Repeat([]byte{7}, 32)
	sealed, err := seal(key, files)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("secret")) {
		t.Error("the secret can be read")
	}
	got, err := unseal(key, sealed)
	if diff := cmp.Diff(files, got); err != nil || diff != "" {
		t.Errorf("%v: -want +got:\n%s", err, diff)
	}
	if _, err := unseal(bytes.Repeat([]byte{8}, 32), sealed); err == nil {
		t.Error("another key opens it")
	}
	sealed[len(sealed)/2] ^= 1
	if _, err := unseal(key, sealed); err == nil {
		t.Error("it was changed, and opens")
	}
}

func TestBearer(t *testing.T) {
	for token, want := range map[string]string{"abcdef.0123456789abcdef": "abcdef.0123456789abcdef", "abcdef.0123456789abcdef.00ff": "abcdef.0123456789abcdef", "x": "x"} {
		if got := Bearer(token); got != want {
			t.Errorf("%s: %s", token, got)
		}
	}
}
