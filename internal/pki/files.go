package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"keelson.dev/internal/statefile"
)

// Server is what a control plane node's certificates must name.
type Server struct {
	Name      string   // node name
	IPs       []net.IP // its addresses, and the first address of each service range
	DNSNames  []string // further names by which clients reach the API
	DNSDomain string   // the cluster's domain, for example cluster.local
}

// EncryptionConfig is the file below a PKI folder by which API servers encrypt secrets at rest; it holds the key.
const EncryptionConfig = "encryption.yaml"

// Shared are the files below a PKI folder that all servers of a cluster have in common; everything else can be made from them.
var Shared = []string{
	"ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key", "sa.key", "sa.pub", EncryptionConfig,
}

// EnsureServer writes, where absent, the files that a control plane node needs below dir, under kubeadm's names. Authorities
// that are there are used, so several servers share them. Certificates that they signed are made anew when a quarter of their life is
// left, or when they lack a name of the server.
func EnsureServer(dir string, server Server, now time.Time) error {
	store := &store{dir: dir, now: now}
	root := store.authority("ca", "kubernetes")
	frontProxy := store.authority("front-proxy-ca", "front-proxy-ca")
	etcd := store.authority("etcd/ca", "etcd-ca")

	names := append([]string{
		server.Name, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc." + server.DNSDomain,
	}, server.DNSNames...)
	local := append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, server.IPs...)
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	serving := both[:1]

	// With the authority's own certificate, so that who knows its hash need not have it.
	store.chain(root, "apiserver", Request{CommonName: "kube-apiserver", DNSNames: names, IPs: local, Usages: serving})
	store.issue(root, "apiserver-kubelet-client",
		Request{CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"kubeadm:cluster-admins"}})
	store.issue(frontProxy, "front-proxy-client", Request{CommonName: "front-proxy-client"})
	store.issue(etcd, "etcd/server", Request{CommonName: server.Name, DNSNames: names[:2], IPs: local, Usages: both})
	store.issue(etcd, "etcd/peer", Request{CommonName: server.Name, DNSNames: names[:2], IPs: local, Usages: both})
	store.issue(etcd, "apiserver-etcd-client", Request{CommonName: "kube-apiserver-etcd-client"})
	store.signingKey("sa")
	store.encryption()
	return store.err
}

// ReadShared returns the content, by name, of the files below dir that another server of the cluster needs.
func ReadShared(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range Shared {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("read what servers share: %w", err)
		}
		files[name] = data
	}
	return files, nil
}

// WriteShared writes what ReadShared has returned, without touching what is there.
func WriteShared(dir string, files map[string][]byte) error {
	for _, name := range Shared {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		mode := fs.FileMode(0o644)
		if filepath.Ext(name) == ".key" || name == EncryptionConfig {
			mode = 0o600
		}
		if len(files[name]) == 0 {
			return fmt.Errorf("write what servers share: no %s", name)
		}
		if err := writeFile(path, files[name], mode); err != nil {
			return err
		}
	}
	return nil
}

// EnsureClient returns the named client key pair below dir, issued by the cluster's authority where it is absent or about to expire.
func EnsureClient(dir, name string, request Request, now time.Time) (KeyPair, error) {
	store := &store{dir: dir, now: now}
	root := store.authority("ca", "kubernetes")
	pair := store.issue(root, name, request)
	return pair, store.err
}

// store makes files below dir and keeps the first error, so that the list of files reads as a list.
type store struct {
	dir string
	now time.Time
	err error
}

func (s *store) authority(name, commonName string) *Authority {
	var made *Authority
	pair := s.ensure(name, func(KeyPair) bool { return true }, func() (KeyPair, error) {
		authority, pair, err := NewAuthority(commonName, s.now)
		made = authority
		return pair, err
	})
	if s.err != nil || made != nil {
		return made
	}
	made, s.err = ParseAuthority(pair)
	return made
}

func (s *store) issue(by *Authority, name string, request Request) KeyPair {
	return s.ensure(name, func(pair KeyPair) bool { return by.serves(pair, request, s.now) }, func() (KeyPair, error) { return by.Issue(request, s.now) })
}

// encryption makes the configuration of secrets at rest. What was stored before it was there is still read, and encrypted when it is
// written again.
func (s *store) encryption() {
	path := filepath.Join(s.dir, EncryptionConfig)
	if _, err := os.Stat(path); s.err != nil || err == nil {
		return
	}
	key := make([]byte, 32) // of XSalsa20 and Poly1305
	if _, s.err = rand.Read(key); s.err != nil {
		return
	}
	s.err = writeFile(path, fmt.Appendf(nil, encryptionConfig, base64.StdEncoding.EncodeToString(key)), 0o600)
}

const encryptionConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox: {keys: [{name: key1, secret: %s}]}
  - identity: {}
`

// chain is issue with the issuer's certificate below the one that it signed, which files of older versions lack.
func (s *store) chain(by *Authority, name string, request Request) {
	pair := s.issue(by, name, request)
	if s.err != nil {
		return
	}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: by.Certificate.Raw})
	if !bytes.Contains(pair.CertPEM, authority) {
		s.err = writeFile(filepath.Join(s.dir, name)+".crt", slices.Concat(pair.CertPEM, authority), 0o644)
	}
}

func (s *store) signingKey(name string) {
	if s.err != nil {
		return
	}
	path := filepath.Join(s.dir, name)
	if _, err := os.Stat(path + ".pub"); err == nil {
		return
	}
	key, keyPEM, err := NewKey()
	if err != nil {
		s.err = err
		return
	}
	public, err := publicPEM(key)
	if err != nil {
		s.err = err
		return
	}
	// The public half goes last: where it is there, both are.
	s.err = errors.Join(writeFile(path+".key", keyPEM, 0o600), writeFile(path+".pub", public, 0o644))
}

func publicPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ensure returns the pair in files name.crt and name.key; where there is none that serves it makes one and writes the certificate last.
func (s *store) ensure(name string, serves func(KeyPair) bool, generate func() (KeyPair, error)) KeyPair {
	if s.err != nil {
		return KeyPair{}
	}
	path := filepath.Join(s.dir, name)
	pair, err := readPair(path)
	if err == nil && serves(pair) {
		return pair
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.err = err
		return KeyPair{}
	}
	pair, s.err = generate()
	if s.err != nil {
		return KeyPair{}
	}
	s.err = errors.Join(writeFile(path+".key", pair.KeyPEM, 0o600), writeFile(path+".crt", pair.CertPEM, 0o644))
	return pair
}

func readPair(path string) (KeyPair, error) {
	certPEM, err := os.ReadFile(path + ".crt")
	if err != nil {
		return KeyPair{}, fmt.Errorf("read certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(path + ".key")
	if err != nil {
		return KeyPair{}, fmt.Errorf("read key: %w", err)
	}
	return KeyPair{CertPEM: certPEM, KeyPEM: keyPEM}, nil
}

// writeFile replaces path in one step, so that a killed process leaves no half-written key.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder for %s: %w", filepath.Base(path), err)
	}
	return statefile.Write(path, data, mode)
}
