package tokens

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/util/filesystem"
	"k8s.io/klog/v2"

	"keelson.dev/internal/satoken"
)

// Keys is where the keys that verify tokens come from. They may change while the server runs.
type Keys interface {
	// Keys returns the keys of the moment. id names the one that is looked for: a source that does not know it may ask for it.
	Keys(ctx context.Context, id string) *satoken.KeySet
	// MaxAge is how long others may go on with the keys that are published.
	MaxAge() time.Duration
}

// Signer signs new tokens.
type Signer interface {
	Sign(ctx context.Context, claims satoken.Claims) (string, error)
}

const (
	// filesMaxAge is upstream's for keys from files.
	filesMaxAge = time.Hour
	// reloadInterval is how often the files are looked at besides when the system tells that they have changed.
	reloadInterval = time.Minute
)

// KeyFiles signs and verifies with the keys of PEM files. Unlike upstream it takes new keys without a restart.
type KeyFiles struct {
	signing string
	public  []string // empty: the public half of the signing key
	current atomic.Pointer[keyPair]
}

type keyPair struct {
	signer *satoken.Signer
	keys   *satoken.KeySet
}

// ReadKeyFiles reads the signing key, and the keys that verify tokens.
func ReadKeyFiles(signing string, public []string) (*KeyFiles, error) {
	k := &KeyFiles{signing: signing, public: public}
	pair, err := k.read()
	k.current.Store(pair)
	return k, err
}

func (k *KeyFiles) read() (*keyPair, error) {
	signer, err := satoken.ReadSigner(k.signing)
	if err != nil {
		return nil, fmt.Errorf("--service-account-signing-key-file: %w", err)
	}
	pair := &keyPair{signer: signer}
	if len(k.public) == 0 {
		pair.keys, err = satoken.NewKeySet(signer.Public())
	} else {
		pair.keys, err = satoken.ReadKeySet(k.public...)
	}
	if err != nil {
		return nil, fmt.Errorf("--service-account-key-file: %w", err)
	}
	return pair, nil
}

// Follow takes new content of the files until ctx ends. Files that cannot be read change nothing, nor does a signing key that the
// public keys do not cover yet: its tokens would be refused.
func (k *KeyFiles) Follow(ctx context.Context) {
	log := klog.FromContext(ctx)
	for _, file := range append(slices.Clone(k.public), k.signing) {
		go filesystem.WatchUntil(ctx, reloadInterval, file, func() {
			pair, err := k.read()
			if err == nil {
				if known, _ := pair.keys.Has(pair.signer.KeyID()); !known {
					err = errors.New("no public key belongs to the signing key")
				}
			}
			if err != nil {
				log.Error(err, "Kept the former keys of service account tokens")
				return
			}
			k.current.Store(pair)
		}, func(err error) { log.Error(err, "Could not watch a key of service account tokens", "file", file) })
	}
}

// Sign implements Signer.
func (k *KeyFiles) Sign(_ context.Context, claims satoken.Claims) (string, error) {
	return k.current.Load().signer.Sign(claims)
}

// Keys implements Keys.
func (k *KeyFiles) Keys(context.Context, string) *satoken.KeySet { return k.current.Load().keys }

// MaxAge implements Keys.
func (k *KeyFiles) MaxAge() time.Duration { return filesMaxAge }
