// Package certificates approves and signs certificate signing requests for the built-in signers, and removes old ones.
package certificates

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

// backdate makes a certificate valid a little before it is signed, for clocks that are behind.
const backdate = 5 * time.Minute

// Authority signs certificates with the cluster's CA. It is safe for concurrent use.
type Authority struct {
	cert   *x509.Certificate
	key    crypto.Signer
	maxTTL time.Duration
	clock  clock.PassiveClock
}

// LoadAuthority reads a CA from files in PEM.
func LoadAuthority(certFile, keyFile string, maxTTL time.Duration, clk clock.PassiveClock) (*Authority, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("read signing certificate: %w", err)
	}
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return nil, fmt.Errorf("read signing certificate %s: no PEM", certFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read signing certificate %s: %w", certFile, err)
	}
	key, err := keyutil.PrivateKeyFromFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("signing key %s cannot sign", keyFile)
	}
	return &Authority{cert: cert, key: signer, maxTTL: maxTTL, clock: clk}, nil
}

// Sign returns a certificate in PEM for a request. The request's own wish for a lifetime is honoured up to the authority's.
func (a *Authority) Sign(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage, seconds *int32) ([]byte, error) {
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("signature of the request: %w", err)
	}
	keyUsage, extUsages, err := usagesOf(usages)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	ttl := a.maxTTL
	if seconds != nil {
		ttl = min(ttl, max(time.Duration(*seconds)*time.Second, 10*time.Minute))
	}
	now := a.clock.Now()
	notBefore, notAfter := now.Add(-backdate), now.Add(ttl)
	if notAfter.After(a.cert.NotAfter) {
		notAfter = a.cert.NotAfter
	}
	if !now.Before(a.cert.NotAfter) {
		return nil, errors.New("refusing to sign a certificate that expired in the past")
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: request.Subject,
		DNSNames: request.DNSNames, IPAddresses: request.IPAddresses, EmailAddresses: request.EmailAddresses, URIs: request.URIs,
		NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: keyUsage, ExtKeyUsage: extUsages, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, request.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// AddSigner wires the controller that signs approved requests.
func AddSigner(e *env.Env, workers int, authority *Authority) error {
	requests, err := env.Lister(e, &certificatesv1.CertificateSigningRequest{})
	if err != nil {
		return err
	}
	s := &signer{client: e.Client, requests: requests, authority: authority, clock: e.Clock}
	return e.Controller("certificatesigningrequest-signing", workers, s.reconcile, env.For(&certificatesv1.CertificateSigningRequest{}))
}

type signer struct {
	client    client.Client
	requests  lister.Of[*certificatesv1.CertificateSigningRequest]
	authority *Authority
	clock     clock.PassiveClock
}

func (s *signer) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	csr, ok := s.requests.Find("", req.Name)
	if !ok || len(csr.Status.Certificate) > 0 || !has(csr, certificatesv1.CertificateApproved) || has(csr, certificatesv1.CertificateDenied) || has(csr, certificatesv1.CertificateFailed) {
		return ctrl.Result{}, nil
	}
	accept, ok := signers[csr.Spec.SignerName]
	if !ok {
		return ctrl.Result{}, nil
	}
	changed := csr.DeepCopy()
	request, err := parseRequest(csr)
	if err == nil {
		err = accept(request, csr.Spec.Usages)
	}
	if err == nil {
		changed.Status.Certificate, err = s.authority.Sign(request, csr.Spec.Usages, csr.Spec.ExpirationSeconds)
	}
	if err != nil {
		now := metav1.NewTime(s.clock.Now())
		changed.Status.Conditions = append(changed.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
			LastUpdateTime: now, LastTransitionTime: now,
		})
	}
	return ctrl.Result{}, client.IgnoreNotFound(s.client.Status().Update(ctx, changed))
}

func has(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	for _, c := range csr.Status.Conditions {
		if c.Type == kind {
			return true
		}
	}
	return false
}

func parseRequest(csr *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
