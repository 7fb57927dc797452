package satoken

import (
	"crypto"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"k8s.io/client-go/util/keyutil"
)

// KeySet is an ordered, immutable set of public keys that tokens are verified with.
type KeySet struct {
	keys []jose.JSONWebKey
}

// NewKeySet returns the set of the given keys; a key that occurs twice is kept once.
func NewKeySet(public ...crypto.PublicKey) (*KeySet, error) {
	set := &KeySet{}
	seen := map[string]bool{}
	for _, key := range public {
		id, err := KeyID(key)
		if err != nil {
			return nil, err
		}
		algorithm, err := Algorithm(key)
		if err != nil {
			return nil, err
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		set.keys = append(set.keys, jose.JSONWebKey{Key: key, KeyID: id, Algorithm: string(algorithm), Use: "sig"})
	}
	return set, nil
}

// ReadKeySet reads the public keys (or the public halves of private keys) of PEM files.
func ReadKeySet(files ...string) (*KeySet, error) {
	var public []crypto.PublicKey
	for _, file := range files {
		keys, err := keyutil.PublicKeysFromFile(file)
		if err != nil {
			return nil, fmt.Errorf("read public keys: %w", err)
		}
		for _, key := range keys {
			public = append(public, key)
		}
	}
	return NewKeySet(public...)
}

// ReadSigner reads the private key of a PEM file.
func ReadSigner(file string) (*Signer, error) {
	key, err := keyutil.PrivateKeyFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	return NewSigner(key)
}

// JWKS returns the keys as the JSON web key set that relying parties fetch.
func (s *KeySet) JWKS() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: s.keys}
}

// find returns the keys that a token with the given key ID may be signed with: all of them when it names none.
func (s *KeySet) find(id string) []jose.JSONWebKey {
	if id == "" {
		return s.keys
	}
	for i := range s.keys {
		if s.keys[i].KeyID == id {
			return s.keys[i : i+1]
		}
	}
	return nil
}
