// Package external has service account tokens signed by another process, which keeps the private keys to itself: the protocol
// k8s.io/externaljwt over a unix socket (--service-account-signing-endpoint).
package external

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	externaljwt "k8s.io/externaljwt/apis/v1"
	"k8s.io/klog/v2"

	"keelson.dev/apiserver/tokens"
	"keelson.dev/internal/satoken"
)

const (
	syncTimeout     = 60 * time.Second // of one question for the keys, the first one too
	metadataTimeout = 10 * time.Second
	retryInterval   = 10 * time.Second // after a question that was not answered
	maxKeyID        = 1024             // bytes, by the protocol
	minLifetime     = 600 * time.Second
)

// Signer is the process that signs.
type Signer struct {
	client externaljwt.ExternalJWTSignerClient
	asking singleflight.Group
	known  atomic.Pointer[known]
	// MaxLifetime is the longest token that the process signs.
	MaxLifetime time.Duration
}

// known are the keys of the last answer.
type known struct {
	keys    *satoken.KeySet
	refresh time.Time // when to ask again
}

var (
	_ tokens.Signer = &Signer{}
	_ tokens.Keys   = &Signer{}
)

// Connect reaches the process behind a socket, learns its keys and keeps up with them until ctx ends.
func Connect(ctx context.Context, socket string) (*Signer, error) {
	connection, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return nil, fmt.Errorf("connect to external-jwt-signer: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = connection.Close() })
	s := &Signer{client: externaljwt.NewExternalJWTSignerClient(connection)}
	if err := s.start(ctx); err != nil {
		_ = connection.Close()
		return nil, fmt.Errorf("while setting up external-jwt-signer: %w", err)
	}
	go s.follow(ctx)
	return s, nil
}

func (s *Signer) start(ctx context.Context) error {
	if err := s.sync(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	metadata, err := s.client.Metadata(ctx, &externaljwt.MetadataRequest{})
	if err != nil {
		return err
	}
	s.MaxLifetime = time.Duration(metadata.MaxTokenExpirationSeconds) * time.Second
	if s.MaxLifetime < minLifetime {
		return fmt.Errorf("max token life supported by external-jwt-signer (%v) is less than acceptable (min %v)", s.MaxLifetime, minLifetime)
	}
	return nil
}

// follow asks for the keys as often as the process wants to be asked.
func (s *Signer) follow(ctx context.Context) {
	for {
		wait := time.Until(s.known.Load().refresh)
		if wait <= 0 {
			wait = retryInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := s.sync(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Kept the former keys of external-jwt-signer")
		}
	}
}

// sync asks for the keys; who asks at the same time shares the answer, and one who gives up does not spoil it for the others.
func (s *Signer) sync(ctx context.Context) error {
	answer := s.asking.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), syncTimeout)
		defer cancel()
		response, err := s.client.FetchKeys(ctx, &externaljwt.FetchKeysRequest{})
		if err != nil {
			return nil, fmt.Errorf("fetch token verification keys: %w", err)
		}
		keys, err := parse(response)
		if err != nil {
			return nil, err
		}
		s.known.Store(&known{keys: keys, refresh: time.Now().Add(time.Duration(response.RefreshHintSeconds) * time.Second)})
		return nil, nil
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case result := <-answer:
		return result.Err
	}
}

// parse checks an answer against the protocol.
func parse(response *externaljwt.FetchKeysResponse) (*satoken.KeySet, error) {
	switch {
	case response.RefreshHintSeconds <= 0:
		return nil, fmt.Errorf("found invalid refresh hint (%ds)", response.RefreshHintSeconds)
	case len(response.Keys) == 0:
		return nil, errors.New("found no keys")
	}
	if err := response.DataTimestamp.CheckValid(); err != nil {
		return nil, fmt.Errorf("invalid data timestamp: %w", err)
	}
	var keys []satoken.Key
	for _, key := range response.Keys {
		if id := key.GetKeyId(); id == "" || len(id) > maxKeyID {
			return nil, fmt.Errorf("found invalid public key id %q", id)
		}
		public, err := x509.ParsePKIXPublicKey(key.Key)
		if err != nil {
			return nil, fmt.Errorf("parse public key %s: %w", key.KeyId, err)
		}
		keys = append(keys, satoken.Key{ID: key.KeyId, Public: public, Hidden: key.ExcludeFromOidcDiscovery})
	}
	return satoken.NewNamedKeySet(keys...)
}

// Keys implements tokens.Keys. An unknown key may be a new one, so it is asked for.
func (s *Signer) Keys(ctx context.Context, id string) *satoken.KeySet {
	if found, _ := s.known.Load().keys.Has(id); !found {
		if err := s.sync(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Could not ask external-jwt-signer for a key", "key", id)
		}
	}
	return s.known.Load().keys
}

// MaxAge implements tokens.Keys.
func (s *Signer) MaxAge() time.Duration { return max(0, time.Until(s.known.Load().refresh)) }

// Sign implements tokens.Signer.
func (s *Signer) Sign(ctx context.Context, claims satoken.Claims) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("serialize claims: %w", err)
	}
	encoded := base64.RawURLEncoding.EncodeToString(payload)
	response, err := s.client.Sign(ctx, &externaljwt.SignJWTRequest{Claims: encoded})
	if err != nil {
		return "", fmt.Errorf("while signing jwt: %w", err)
	}
	if err := s.checkHeader(ctx, response.Header); err != nil {
		return "", fmt.Errorf("while validating header: %w", err)
	}
	if response.Signature == "" {
		return "", errors.New("empty signature returned")
	}
	return response.Header + "." + encoded + "." + response.Signature, nil
}

// checkHeader keeps tokens from being issued that nobody could verify by what is published.
func (s *Signer) checkHeader(ctx context.Context, encoded string) error {
	data, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	var header struct {
		Algorithm jose.SignatureAlgorithm `json:"alg"`
		KeyID     string                  `json:"kid"`
		Type      string                  `json:"typ"`
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&header); err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	switch {
	case header.Type != "JWT":
		return errors.New("bad type")
	case header.KeyID == "":
		return errors.New("key id missing")
	case len(header.KeyID) > maxKeyID:
		return errors.New("key id longer than 1 kb")
	case !slices.Contains(satoken.Algorithms, header.Algorithm):
		return fmt.Errorf("bad signing algorithm %q", header.Algorithm)
	}
	if found, signs := s.Keys(ctx, header.KeyID).Has(header.KeyID); found && !signs {
		return fmt.Errorf("key used for signing JWT (kid: %s) is excluded from OIDC discovery docs", header.KeyID)
	}
	return nil
}
