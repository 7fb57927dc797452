// Package satoken reads, writes and describes service account tokens: the JWT's claims, the keys that sign and verify it, and
// nothing about who may have one. The API server issues and checks bound tokens with it, the token controller signs the
// long-lived tokens that stand in secrets.
package satoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
)

// LegacyIssuer is the issuer of tokens that are kept in secrets of type kubernetes.io/service-account-token.
const LegacyIssuer = "kubernetes/serviceaccount"

// Leeway is how much clocks may differ when a token's times are checked.
const Leeway = jwt.DefaultLeeway

// Claims are all claims of a service account token, bound (Kubernetes) or kept in a secret (the flat Legacy ones).
type Claims struct {
	jwt.Claims
	Audience   Audience `json:"aud,omitempty"` // in place of the library's, which writes a single audience without brackets
	Kubernetes *Binding `json:"kubernetes.io,omitempty"`

	LegacyNamespace  string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	LegacySecretName string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	LegacyName       string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	LegacyUID        string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

// Audience is whom a token is for. It is always written as a list, as upstream does; a single string is understood.
type Audience []string

// UnmarshalJSON reads a list or a single string.
func (a *Audience) UnmarshalJSON(data []byte) error {
	var single string
	if json.Unmarshal(data, &single) == nil {
		*a = Audience{single}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// Binding says which service account a token speaks for and which object's life ends the token's.
type Binding struct {
	Namespace      string           `json:"namespace,omitempty"`
	ServiceAccount Ref              `json:"serviceaccount"`
	Pod            *Ref             `json:"pod,omitempty"`
	Secret         *Ref             `json:"secret,omitempty"`
	Node           *Ref             `json:"node,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

// Ref names an object of one kind in the token's namespace.
type Ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// Request is what a bound token is asked for.
type Request struct {
	ServiceAccount *corev1.ServiceAccount
	Pod            *corev1.Pod
	Secret         *corev1.Secret
	Node           *corev1.Node
	Audiences      []string
	Lifetime       time.Duration
	// WarnAfter, if not 0, marks a token that outlives the lifetime that was asked for: using it later than this is noted.
	WarnAfter time.Duration
}

// Subject is the user name that a service account authenticates as.
func Subject(namespace, name string) string {
	return "system:serviceaccount:" + namespace + ":" + name
}

// BoundClaims returns the claims of a bound token issued at now. Its ID is random.
func BoundClaims(issuer string, now time.Time, r Request) Claims {
	sa := r.ServiceAccount
	binding := &Binding{Namespace: sa.Namespace, ServiceAccount: Ref{Name: sa.Name, UID: string(sa.UID)}}
	if r.Pod != nil {
		binding.Pod = &Ref{Name: r.Pod.Name, UID: string(r.Pod.UID)}
	}
	if r.Secret != nil {
		binding.Secret = &Ref{Name: r.Secret.Name, UID: string(r.Secret.UID)}
	}
	if r.Node != nil {
		binding.Node = &Ref{Name: r.Node.Name, UID: string(r.Node.UID)}
	}
	if r.WarnAfter != 0 {
		binding.WarnAfter = jwt.NewNumericDate(now.Add(r.WarnAfter))
	}
	return Claims{
		Claims: jwt.Claims{
			Issuer: issuer, Subject: Subject(sa.Namespace, sa.Name), ID: uuid.NewString(),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(r.Lifetime)),
		},
		Audience: r.Audiences, Kubernetes: binding,
	}
}

// LegacyClaims returns the claims of the token that is kept in a secret and lives as long as the secret does.
func LegacyClaims(sa *corev1.ServiceAccount, secret *corev1.Secret) Claims {
	return Claims{
		Claims:          jwt.Claims{Issuer: LegacyIssuer, Subject: Subject(sa.Namespace, sa.Name)},
		LegacyNamespace: sa.Namespace, LegacySecretName: secret.Name, LegacyName: sa.Name, LegacyUID: string(sa.UID),
	}
}

// Signer signs claims with one private key.
type Signer struct {
	signer jose.Signer
	public crypto.PublicKey
	id     string
}

// NewSigner returns a signer for an RSA or ECDSA private key.
func NewSigner(key crypto.PrivateKey) (*Signer, error) {
	private, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("unknown private key type %T", key)
	}
	algorithm, err := Algorithm(private.Public())
	if err != nil {
		return nil, err
	}
	id, err := KeyID(private.Public())
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		return nil, fmt.Errorf("make token signer: %w", err)
	}
	return &Signer{signer: signer, public: private.Public(), id: id}, nil
}

// Public returns the key that verifies what the signer signs.
func (s *Signer) Public() crypto.PublicKey { return s.public }

// KeyID names the signer's key.
func (s *Signer) KeyID() string { return s.id }

// Sign returns the compact serialization of the signed claims.
func (s *Signer) Sign(claims Claims) (string, error) {
	token, err := jwt.Signed(s.signer).Claims(claims).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}

// Algorithms are those that tokens may be signed with.
var Algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.ES384, jose.ES512}

// Algorithm returns how tokens are signed with the private part of a public key.
func Algorithm(public crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return jose.RS256, nil
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return jose.ES256, nil
		case elliptic.P384():
			return jose.ES384, nil
		case elliptic.P521():
			return jose.ES512, nil
		}
		return "", fmt.Errorf("unknown elliptic curve with a modulus of %d bits, must be 256, 384 or 521", key.Curve.Params().BitSize)
	}
	return "", fmt.Errorf("unknown public key type %T, must be RSA or ECDSA", public)
}

// KeyID names a public key: the SHA-256 of its PKIX form, as upstream does, so that tokens of either are found by the other.
func KeyID(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("serialize public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// Parse reads a token without checking its signature. Its result decides only whether and with what to verify it.
func Parse(token string) (*jwt.JSONWebToken, Claims, error) {
	var claims Claims
	parsed, err := jwt.ParseSigned(token, Algorithms)
	if err != nil {
		return nil, claims, fmt.Errorf("parse token: %w", err)
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return nil, claims, fmt.Errorf("read token claims: %w", err)
	}
	return parsed, claims, nil
}

// SignedWith returns the ID of the key that a token says it is signed with; empty when it says nothing.
func SignedWith(token *jwt.JSONWebToken) string {
	for _, header := range token.Headers {
		if header.KeyID != "" {
			return header.KeyID
		}
	}
	return ""
}

// Verify checks the token's signature with the keys, those that its key ID names first, and returns its claims.
func Verify(token *jwt.JSONWebToken, keys *KeySet) (Claims, error) {
	var errs []error
	for _, key := range keys.find(SignedWith(token)) {
		var claims Claims
		if err := token.Claims(key.Key, &claims); err != nil {
			errs = append(errs, err)
			continue
		}
		return claims, nil
	}
	if len(errs) == 0 {
		return Claims{}, errors.New("no keys found")
	}
	return Claims{}, errors.Join(errs...)
}
