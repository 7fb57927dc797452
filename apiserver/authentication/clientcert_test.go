package authentication

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"keelson.dev/internal/pki"
)

func poolOf(t *testing.T, authority *pki.Authority) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(authority.Certificate)
	return pool
}

func TestClientCertificatesAreVerifiedAgain(t *testing.T) {
	began := time.Now()
	authority, _, err := pki.NewAuthority("one", began)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := pki.NewAuthority("two", began)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Request{CommonName: "jane", Organizations: []string{"dev"}}, began)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pair.CertPEM)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}

	clock := clocktesting.NewFakePassiveClock(began)
	options := x509.VerifyOptions{Roots: poolOf(t, authority), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	available := true
	certificates := newClientCertificates(func() (x509.VerifyOptions, bool) { return options, available }, clock)
	request := &http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}}
	check := func(step string, want bool) {
		t.Helper()
		response, ok, err := certificates.AuthenticateRequest(request)
		if ok != want || ok != (err == nil && response != nil) {
			t.Fatalf("%s: got %v %v %v", step, response, ok, err)
		}
		if ok && response.User.GetName() != "jane" {
			t.Fatalf("%s: got user %s", step, response.User.GetName())
		}
	}
	check("first", true)
	check("remembered", true)

	// The library judges by the real clock, so only what is remembered can be seen to pass here.
	options.CurrentTime = leaf.NotAfter.Add(time.Hour)
	check("remembered beside options that would refuse", true)
	clock.SetTime(began.Add(rememberFor + time.Second))
	check("a minute later", false)

	options.CurrentTime = time.Time{}
	clock.SetTime(began)
	check("valid again", true)
	trusted := options.Roots
	options.Roots = poolOf(t, other)
	check("other authorities", false)
	options.Roots = trusted
	check("the first authorities", true)
	clock.SetTime(leaf.NotAfter)
	options.CurrentTime = leaf.NotAfter.Add(time.Second)
	check("expired", false)

	if _, ok, err := certificates.AuthenticateRequest(&http.Request{TLS: &tls.ConnectionState{}}); ok || err != nil {
		t.Fatalf("no certificate: got %v %v", ok, err)
	}
	options.CurrentTime, available = time.Time{}, false
	if _, ok, err := certificates.AuthenticateRequest(request); ok || err != nil {
		t.Fatalf("no authorities: got %v %v", ok, err)
	}
}
