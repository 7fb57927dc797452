package secureserving

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

const (
	// cacheSize bounds both caches of a gate; a component is asked by a handful of identities.
	cacheSize = 1024
	// reviewTimeout bounds a question to the API server.
	reviewTimeout = 10 * time.Second
)

// TTLs are how long answers of the API server count.
type TTLs struct{ Token, Allowed, Denied time.Duration }

// GateConfig says whom a gate lets in to what.
type GateConfig struct {
	Client kubernetes.Interface // nil: no tokens, and no rights
	// ClientCAs are the authorities of client certificates; nil: none are accepted.
	ClientCAs func() (*x509.CertPool, error)
	Anonymous bool // requests without credentials count as those of system:anonymous
	// Rights are what a request needs, one of them, and without a user; none: it is open to everybody. Nil: all that is needed is
	// to be authenticated.
	Rights func(*http.Request) []authorizationv1.SubjectAccessReviewSpec
	// Subject is how a refusal words what was asked for.
	Subject func(*http.Request) string
	TTLs    TTLs
	Clock   clock.PassiveClock
}

// Gate is delegated authentication and authorization: client certificates are verified here, tokens and rights are reviewed by the API
// server, and its answers are kept for a while.
type Gate struct {
	GateConfig
	tokens *cache.LRUExpireCache
	rights *cache.LRUExpireCache
}

// NewGate returns a gate.
func NewGate(cfg GateConfig) *Gate {
	return &Gate{GateConfig: cfg, tokens: cache.NewLRUExpireCacheWithClock(cacheSize, cfg.Clock), rights: cache.NewLRUExpireCacheWithClock(cacheSize, cfg.Clock)}
}

// Wrap puts the gate before a handler.
func (g *Gate) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var needed []authorizationv1.SubjectAccessReviewSpec
		if g.Rights != nil {
			if needed = g.Rights(r); len(needed) == 0 {
				next.ServeHTTP(w, r)
				return
			}
		}
		user, err := g.authenticate(r)
		if err != nil {
			klog.FromContext(r.Context()).V(2).Info("Request was not authenticated", "path", r.URL.Path, "err", err)
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		if g.Rights == nil {
			next.ServeHTTP(w, r)
			return
		}
		allowed, err := g.authorize(r.Context(), user, needed)
		switch {
		case err != nil:
			klog.FromContext(r.Context()).Error(err, "Request could not be authorized", "user", user.Username, "path", r.URL.Path)
			http.Error(w, fmt.Sprintf("Authorization error (user=%s, %s)", user.Username, g.Subject(r)), http.StatusInternalServerError)
		case !allowed:
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, %s)", user.Username, g.Subject(r)), http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (g *Gate) authenticate(r *http.Request) (*authenticationv1.UserInfo, error) {
	var problem error
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		user, err := g.verify(r.TLS.PeerCertificates)
		if err == nil {
			return user, nil
		}
		problem = err
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && token != "" {
		return g.review(r.Context(), strings.TrimSpace(token)) // a wrong token must not turn into an anonymous request
	}
	if g.Anonymous {
		return &authenticationv1.UserInfo{Username: "system:anonymous", Groups: []string{"system:unauthenticated"}}, nil
	}
	if problem == nil {
		problem = errors.New("no credentials")
	}
	return nil, problem
}

// verify turns a client certificate into a user: its common name, and its organizations as groups.
func (g *Gate) verify(chain []*x509.Certificate) (*authenticationv1.UserInfo, error) {
	if g.ClientCAs == nil {
		return nil, errors.New("client certificates are not accepted")
	}
	roots, err := g.ClientCAs()
	if err != nil {
		return nil, err
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: g.Clock.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, fmt.Errorf("verify client certificate: %w", err)
	}
	subject := chain[0].Subject
	groups := append(append([]string{}, subject.Organization...), "system:authenticated")
	return &authenticationv1.UserInfo{Username: subject.CommonName, Groups: groups}, nil
}

func (g *Gate) review(ctx context.Context, token string) (*authenticationv1.UserInfo, error) {
	sum := sha256.Sum256([]byte(token))
	key := hex.EncodeToString(sum[:])
	if user, ok := g.tokens.Get(key); ok {
		return user.(*authenticationv1.UserInfo), nil
	}
	if g.Client == nil {
		return nil, errors.New("no API server to review tokens")
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := g.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("review token: %w", err)
	}
	if !review.Status.Authenticated {
		return nil, fmt.Errorf("token is not valid: %s", review.Status.Error)
	}
	g.tokens.Add(key, &review.Status.User, g.TTLs.Token)
	return &review.Status.User, nil
}

// authorize allows what any one of the rights allows.
func (g *Gate) authorize(ctx context.Context, user *authenticationv1.UserInfo, needed []authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	for _, right := range needed {
		allowed, err := g.may(ctx, user, right)
		if err != nil || allowed {
			return allowed, err
		}
	}
	return false, nil
}

func (g *Gate) may(ctx context.Context, user *authenticationv1.UserInfo, right authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	key := fmt.Sprintf("%v %v %q %q %v", right.ResourceAttributes, right.NonResourceAttributes, user.Username, user.Groups, user.Extra)
	if allowed, ok := g.rights.Get(key); ok {
		return allowed.(bool), nil
	}
	if g.Client == nil {
		return false, errors.New("no API server to review rights")
	}
	right.User, right.UID, right.Groups = user.Username, user.UID, user.Groups
	right.Extra = make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for k, v := range user.Extra {
		right.Extra[k] = authorizationv1.ExtraValue(v)
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := g.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: right}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	ttl := g.TTLs.Denied
	if review.Status.Allowed {
		ttl = g.TTLs.Allowed
	}
	g.rights.Add(key, review.Status.Allowed, ttl)
	return review.Status.Allowed, nil
}
