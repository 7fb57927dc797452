package satoken

import (
	"crypto"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"k8s.io/client-go/util/keyutil"
)

// KeySet is an ordered, immutable set of public keys that tokens are verified with.
type KeySet struct {
	keys   []jose.JSONWebKey
	hidden map[string]bool // IDs of keys that are for verifying only, and are not published
}

// Key is a public key under a name that its owner has given it.
type Key struct {
	ID     string
	Public crypto.PublicKey
	Hidden bool // verifies, and is not published
}

// NewNamedKeySet returns the set of keys that come with names.
func NewNamedKeySet(keys ...Key) (*KeySet, error) {
	set := &KeySet{hidden: map[string]bool{}}
	for _, key := range keys {
		algorithm, err := Algorithm(key.Public)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", key.ID, err)
		}
		set.keys = append(set.keys, jose.JSONWebKey{Key: key.Public, KeyID: key.ID, Algorithm: string(algorithm), Use: "sig"})
		set.hidden[key.ID] = key.Hidden
	}
	return set, nil
}

// NewKeySet returns the set of the given keys; a key that occurs twice is kept once.
func NewKeySet(public ...crypto.PublicKey) (*KeySet, error) {
	var keys []Key
	seen := map[string]bool{}
	for _, key := range public {
		id, err := KeyID(key)
		if err != nil {
			return nil, err
		}
		if !seen[id] {
			keys = append(keys, Key{ID: id, Public: key})
		}
		seen[id] = true
	}
	return NewNamedKeySet(keys...)
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
	public := jose.JSONWebKeySet{}
	for _, key := range s.keys {
		if !s.hidden[key.KeyID] {
			public.Keys = append(public.Keys, key)
		}
	}
	return public
}

// Has tells whether the set holds a key of that ID, and whether it may sign new tokens.
func (s *KeySet) Has(id string) (known, signs bool) {
	known = len(s.find(id)) > 0
	return known, known && !s.hidden[id]
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
