// Package pki makes the certificates of a cluster: its authorities, the certificates they sign, and the key pair that signs
// service account tokens. Keys are ECDSA P-256, written with mode 0600; nothing that exists is overwritten but certificates of our own
// that are about to expire or lack a name.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

const (
	// authorityLife and certificateLife are kubeadm's: ten years and one.
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is replaced when its owner starts.
	renewBefore = certificateLife / 4
	// backdate tolerates clocks that are a little behind ours.
	backdate = 5 * time.Minute
)

// Authority signs certificates.
type Authority struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// KeyPair is a PEM-encoded certificate and its private key.
type KeyPair struct {
	CertPEM, KeyPEM []byte
}

// Request says what a certificate is for. Usages nil means client authentication.
type Request struct {
	CommonName    string
	Organizations []string
	DNSNames      []string
	IPs           []net.IP
	Usages        []x509.ExtKeyUsage
}

// NewAuthority makes a self-signed authority.
func NewAuthority(commonName string, now time.Time) (*Authority, KeyPair, error) {
	key, keyPEM, err := NewKey()
	if err != nil {
		return nil, KeyPair{}, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		DNSNames:              []string{commonName},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	self := &Authority{Certificate: template, Key: key}
	certificate, certPEM, err := self.sign(template, key.Public())
	if err != nil {
		return nil, KeyPair{}, err
	}
	return &Authority{Certificate: certificate, Key: key}, KeyPair{CertPEM: certPEM, KeyPEM: keyPEM}, nil
}

// Issue signs a new certificate with a new key.
func (a *Authority) Issue(request Request, now time.Time) (KeyPair, error) {
	key, keyPEM, err := NewKey()
	if err != nil {
		return KeyPair{}, err
	}
	usages := request.Usages
	if usages == nil {
		usages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: request.CommonName, Organization: request.Organizations},
		DNSNames:              request.DNSNames,
		IPAddresses:           request.IPs,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(certificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           usages,
		BasicConstraintsValid: true,
	}
	_, certPEM, err := a.sign(template, key.Public())
	if err != nil {
		return KeyPair{}, err
	}
	return KeyPair{CertPEM: certPEM, KeyPEM: keyPEM}, nil
}

// serves tells whether a pair is still good for a request. One that another authority signed is its owner's business.
func (a *Authority) serves(pair KeyPair, request Request, now time.Time) bool {
	parsed, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil { // halves of two pairs: a renewal was cut short
		return false
	}
	certificate := parsed.Leaf
	if certificate.CheckSignatureFrom(a.Certificate) != nil {
		return true
	}
	for _, name := range request.DNSNames {
		if !slices.Contains(certificate.DNSNames, name) {
			return false
		}
	}
	for _, ip := range request.IPs {
		if !slices.ContainsFunc(certificate.IPAddresses, ip.Equal) {
			return false
		}
	}
	return certificate.NotAfter.Sub(now) > renewBefore
}

func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, []byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("choose serial number: %w", err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, public, a.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate %s: %w", template.Subject.CommonName, err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("parse signed certificate: %w", err)
	}
	return certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// NewKey makes an ECDSA P-256 key and its PEM form.
func NewKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// ParseAuthority reads an authority from its PEM forms.
func ParseAuthority(pair KeyPair) (*Authority, error) {
	certBlock, _ := pem.Decode(pair.CertPEM)
	keyBlock, _ := pem.Decode(pair.KeyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, fmt.Errorf("authority is not PEM")
	}
	certificate, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse authority certificate: %w", err)
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse authority key: %w", err)
	}
	return &Authority{Certificate: certificate, Key: key}, nil
}
