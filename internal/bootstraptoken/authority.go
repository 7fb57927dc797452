package bootstraptoken

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// ErrAuthority says that a server is not of the cluster that is meant.
var ErrAuthority = errors.New("the server shows no certificate of the authority with that hash")

// Hash is the hash of an authority's public key, in the form that kubeadm prints.
func Hash(authority *x509.Certificate) string {
	sum := sha256.Sum256(authority.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// HashPEM is the Hash of the first certificate of a file.
func HashPEM(data []byte) (string, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return "", errors.New("cluster authority: no certificate")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("cluster authority: %w", err)
	}
	return Hash(certificate), nil
}

// Authority asks the server at an address (host:port) for the certificate of its authority, whose hash is known, and returns it as PEM.
// The server proves that it is of the cluster; nothing is sent to it. The error is an ErrAuthority if it is not.
func Authority(ctx context.Context, address, serverName, hash string) ([]byte, error) {
	var found []byte
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: serverName,
		InsecureSkipVerify: true, // it is verified here
		VerifyConnection: func(state tls.ConnectionState) error {
			i := slices.IndexFunc(state.PeerCertificates, func(c *x509.Certificate) bool { return c.IsCA && Hash(c) == hash })
			if i < 0 {
				return ErrAuthority
			}
			roots := x509.NewCertPool()
			roots.AddCert(state.PeerCertificates[i])
			if _, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: serverName}); err != nil {
				return fmt.Errorf("%w: %w", ErrAuthority, err)
			}
			found = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: state.PeerCertificates[i].Raw})
			return nil
		},
	}}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its authority: %w", address, err)
	}
	return found, connection.Close()
}
