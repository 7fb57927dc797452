package pki

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRenewal looks at what a server finds when it starts: certificates are kept while they serve, and the authority always.
func TestRenewal(t *testing.T) {
	dir, made := t.TempDir(), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	server := Server{Name: "server-1", DNSDomain: "cluster.local", IPs: []net.IP{net.IPv4(172, 30, 0, 2)}}
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	ensure := func(server Server, now time.Time) {
		if err := EnsureServer(dir, server, now); err != nil {
			t.Fatal(err)
		}
		if authority, err := ParseAuthority(KeyPair{CertPEM: read("ca.crt"), KeyPEM: read("ca.key")}); err != nil {
			t.Fatal(err)
		} else if !authority.serves(KeyPair{CertPEM: read("apiserver.crt"), KeyPEM: read("apiserver.key")}, Request{IPs: server.IPs}, now) {
			t.Fatalf("the certificate does not serve at %s", now)
		}
	}
	ensure(server, made)
	moved := server
	moved.IPs = []net.IP{net.IPv4(172, 30, 1, 2)}
	for _, step := range []struct {
		name    string
		server  Server
		now     time.Time
		spoil   func()
		renewed bool
	}{
		{name: "a start soon after", server: server, now: made.Add(200 * 24 * time.Hour)},
		{name: "a start in the last quarter", server: server, now: made.Add(280 * 24 * time.Hour), renewed: true},
		{name: "a start long after the end", server: server, now: made.Add(900 * 24 * time.Hour), renewed: true},
		{name: "another address", server: moved, now: made.Add(900 * 24 * time.Hour), renewed: true},
		{
			name: "a key of a renewal that was cut short", server: moved, now: made.Add(900 * 24 * time.Hour), renewed: true,
			spoil: func() {
				if err := os.WriteFile(filepath.Join(dir, "apiserver.key"), read("etcd/peer.key"), 0o600); err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		authority, key, before := read("ca.crt"), read(EncryptionConfig), read("apiserver.crt")
		if step.spoil != nil {
			step.spoil()
		}
		ensure(step.server, step.now)
		if renewed := !bytes.Equal(before, read("apiserver.crt")); renewed != step.renewed {
			t.Errorf("%s: renewed is %v", step.name, renewed)
		}
		if !bytes.Equal(authority, read("ca.crt")) || !bytes.Equal(key, read(EncryptionConfig)) {
			t.Errorf("%s: the authority or the key of secrets was replaced", step.name)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, EncryptionConfig)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key of secrets: %v, %v", info.Mode(), err)
	}
}
