package certificates

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func signed(t *testing.T, public any, key ed25519.PrivateKey, begin time.Time, life time.Duration) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: begin.Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestPodCertificateStatus: a signer decides once, and what it issues is what was asked for (KEP-4317).
func TestPodCertificateStatus(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	other, otherKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	outcome := func(kind string) []metav1.Condition {
		return []metav1.Condition{{Type: kind, Status: metav1.ConditionTrue, Reason: "R", LastTransitionTime: metav1.NewTime(now)}}
	}
	issued := func(chain string, begin time.Time, life, refresh time.Duration) certificatesv1.PodCertificateRequestStatus {
		return certificatesv1.PodCertificateRequestStatus{
			Conditions: outcome("Issued"), CertificateChain: chain, NotBefore: new(metav1.NewTime(begin)),
			NotAfter: new(metav1.NewTime(begin.Add(life))), BeginRefreshAt: new(metav1.NewTime(begin.Add(refresh))),
		}
	}
	good := issued(signed(t, public, key, now, 2*time.Hour), now, 2*time.Hour, time.Hour)
	none := certificatesv1.PodCertificateRequestStatus{}
	cases := map[string]struct {
		status, old certificatesv1.PodCertificateRequestStatus
		want        string // part of the message; empty: valid
	}{
		"issued":           {good, none, ""},
		"denied":           {certificatesv1.PodCertificateRequestStatus{Conditions: outcome("Denied")}, none, ""},
		"denied, issued":   {certificatesv1.PodCertificateRequestStatus{Conditions: outcome("Denied"), CertificateChain: "x"}, none, "must be empty when denying"},
		"no decision":      {certificatesv1.PodCertificateRequestStatus{CertificateChain: "x"}, none, "unless transitioning"},
		"taken back":       {none, good, "immutable after"},
		"unknown outcome":  {certificatesv1.PodCertificateRequestStatus{Conditions: outcome("Approved")}, none, "Unsupported value"},
		"two outcomes":     {certificatesv1.PodCertificateRequestStatus{Conditions: append(outcome("Denied"), outcome("Failed")...)}, none, "at most one"},
		"nothing issued":   {issued("", now, 2*time.Hour, time.Hour), none, "at least one certificate"},
		"of another key":   {issued(signed(t, other, otherKey, now, 2*time.Hour), now, 2*time.Hour, time.Hour), none, "not issued to the requested public key"},
		"other begin":      {issued(good.CertificateChain, now.Add(time.Second), 2*time.Hour, time.Hour), none, "NotBefore time encoded"},
		"begins late":      {issued(signed(t, public, key, now.Add(clockSkew), 2*time.Hour), now.Add(clockSkew), 2*time.Hour, time.Hour), none, "within 5 minutes"},
		"short":            {issued(signed(t, public, key, now, 59*time.Minute), now, 59*time.Minute, 30*time.Minute), none, ">= 1 hour"},
		"long":             {issued(signed(t, public, key, now, 25*time.Hour), now, 25*time.Hour, time.Hour), none, "<= spec.maxExpirationSeconds"},
		"refreshed early":  {issued(good.CertificateChain, now, 2*time.Hour, 9*time.Minute), none, "10 minutes after"},
		"refreshed late":   {issued(good.CertificateChain, now, 2*time.Hour, 111*time.Minute), none, "10 minutes before"},
		"rest no PEM type": {issued(good.CertificateChain+"-----BEGIN X-----\n-----END X-----\n", now, 2*time.Hour, time.Hour), none, "consist entirely of"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			old := &certificatesv1.PodCertificateRequest{Status: c.old}
			old.Spec = certificatesv1.PodCertificateRequestSpec{StubPKCS10Request: stub, MaxExpirationSeconds: new(int32(86400))}
			r := old.DeepCopy()
			r.Status = c.status
			errs := validatePodRequestStatus(r, old, now)
			if (c.want == "") != (len(errs) == 0) || (c.want != "" && !strings.Contains(errs.ToAggregate().Error(), c.want)) {
				t.Errorf("got %v, want %q", errs, c.want)
			}
		})
	}
}
