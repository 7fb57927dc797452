package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func fields(errs field.ErrorList) []string {
	var out []string
	for _, err := range errs {
		out = append(out, err.Field+" "+string(err.Type))
	}
	return out
}

func newRequest(t *testing.T) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "a"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := &certificatesv1.CertificateSigningRequest{}
	csr.Spec = certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		SignerName: "example.com/signer", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
	}
	return csr
}

func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestValidateRequest(t *testing.T) {
	cases := map[string]struct {
		change func(*certificatesv1.CertificateSigningRequestSpec)
		want   []string
	}{
		"valid":           {func(*certificatesv1.CertificateSigningRequestSpec) {}, nil},
		"no PEM":          {func(s *certificatesv1.CertificateSigningRequestSpec) { s.Request = []byte("x") }, []string{"spec.request FieldValueInvalid"}},
		"no usage":        {func(s *certificatesv1.CertificateSigningRequestSpec) { s.Usages = nil }, []string{"spec.usages FieldValueRequired"}},
		"unknown usage":   {func(s *certificatesv1.CertificateSigningRequestSpec) { s.Usages = append(s.Usages, "x", "client auth") }, []string{"spec.usages[1] FieldValueNotSupported", "spec.usages[2] FieldValueDuplicate"}},
		"legacy signer":   {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = legacyUnknownSigner }, []string{"spec.signerName FieldValueInvalid"}},
		"bad signer":      {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "nopath" }, []string{"spec.signerName FieldValueInvalid"}},
		"too short-lived": {func(s *certificatesv1.CertificateSigningRequestSpec) { s.ExpirationSeconds = ptr.To[int32](599) }, []string{"spec.expirationSeconds FieldValueInvalid"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			csr := newRequest(t)
			c.change(&csr.Spec)
			if diff := cmp.Diff(c.want, fields(validateRequest(csr))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestSignersDoNotDecide: /status may neither approve nor take an approval back, and a certificate stays.
func TestSignersDoNotDecide(t *testing.T) {
	approved := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}
	old := newRequest(t)
	csr := old.DeepCopy()
	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{approved}
	prepareRequestStatus(csr, old)
	if len(csr.Status.Conditions) != 0 {
		t.Errorf("a signer has approved: %v", csr.Status.Conditions)
	}
	old.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{approved}
	csr = old.DeepCopy()
	csr.Status.Conditions, csr.Status.Certificate = nil, certificate(t)
	prepareRequestStatus(csr, old)
	if got := requestState(csr); got != "Approved,Issued" {
		t.Errorf("state %q, want Approved,Issued", got)
	}
	if errs := validateRequestStatus(csr, old); len(errs) > 0 {
		t.Errorf("issuing is refused: %v", errs)
	}
	again := csr.DeepCopy()
	again.Status.Certificate = certificate(t)
	if diff := cmp.Diff([]string{"status.certificate FieldValueForbidden"}, fields(validateRequestStatus(again, csr))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestValidateTrustBundle(t *testing.T) {
	bundle := func(name, signer, data string) *certificatesv1.ClusterTrustBundle {
		b := &certificatesv1.ClusterTrustBundle{Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: data}}
		b.Name = name
		return b
	}
	good := string(certificate(t))
	cases := map[string]struct {
		bundle *certificatesv1.ClusterTrustBundle
		want   []string
	}{
		"valid":             {bundle("a", "", good), nil},
		"valid with signer": {bundle("example.com:s:a", "example.com/s", good), nil},
		"wrong name":        {bundle("a", "example.com/s", good), []string{"metadata.name FieldValueInvalid"}},
		"colon":             {bundle("a:b", "", good), []string{"metadata.name FieldValueInvalid"}},
		"empty":             {bundle("a", "", ""), []string{"spec.trustBundle FieldValueInvalid"}},
		"twice":             {bundle("a", "", good+good), []string{"spec.trustBundle FieldValueInvalid"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, fields(clusterTrustBundle.Validate(c.bundle))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
