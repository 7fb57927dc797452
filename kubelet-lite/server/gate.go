package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/klog/v2"
)

// The gate is the kubelet's delegated authentication and authorization: client certificates are verified here, tokens and
// rights are reviewed by the API server, and its answers are kept for as long as upstream's kubelet keeps them by default.
const (
	tokenTTL   = 2 * time.Minute
	allowedTTL = 5 * time.Minute
	deniedTTL  = 30 * time.Second
	// cacheSize bounds both caches; a node is asked by a handful of identities.
	cacheSize = 1024
	// reviewTimeout bounds a question to the API server.
	reviewTimeout = 10 * time.Second
)

type gate struct {
	cfg    Config
	ca     caFile
	tokens *cache.LRUExpireCache
	rights *cache.LRUExpireCache
}

func newGate(cfg Config) *gate {
	return &gate{cfg: cfg, ca: caFile{path: cfg.ClientCAFile}, tokens: cache.NewLRUExpireCacheWithClock(cacheSize, cfg.Clock), rights: cache.NewLRUExpireCacheWithClock(cacheSize, cfg.Clock)}
}

func (g *gate) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := g.authenticate(r)
		if err != nil {
			klog.FromContext(r.Context()).V(2).Info("Request to the kubelet API was not authenticated", "path", r.URL.Path, "err", err)
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		if g.cfg.AlwaysAllow {
			next.ServeHTTP(w, r)
			return
		}
		verb, subresources := attributes(r)
		allowed, err := g.authorize(r.Context(), user, verb, subresources)
		switch {
		case err != nil:
			klog.FromContext(r.Context()).Error(err, "Request to the kubelet API could not be authorized", "user", user.Username, "path", r.URL.Path)
			http.Error(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Username, verb, subresources), http.StatusInternalServerError)
		case !allowed:
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Username, verb, subresources), http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (g *gate) authenticate(r *http.Request) (*authenticationv1.UserInfo, error) {
	var problem error
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		user, err := g.ca.verify(r.TLS.PeerCertificates, g.cfg.Clock.Now())
		if err == nil {
			return user, nil
		}
		problem = err
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && token != "" {
		user, err := g.review(r.Context(), strings.TrimSpace(token))
		if err == nil {
			return user, nil
		}
		return nil, err // a wrong token must not turn into an anonymous request
	}
	if g.cfg.Anonymous {
		return &authenticationv1.UserInfo{Username: "system:anonymous", Groups: []string{"system:unauthenticated"}}, nil
	}
	if problem == nil {
		problem = fmt.Errorf("no credentials")
	}
	return nil, problem
}

func (g *gate) review(ctx context.Context, token string) (*authenticationv1.UserInfo, error) {
	sum := sha256.Sum256([]byte(token))
	key := hex.EncodeToString(sum[:])
	if user, ok := g.tokens.Get(key); ok {
		return user.(*authenticationv1.UserInfo), nil
	}
	if g.cfg.Client == nil {
		return nil, fmt.Errorf("no API server to review tokens")
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := g.cfg.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("review token: %w", err)
	}
	if !review.Status.Authenticated {
		return nil, fmt.Errorf("token is not valid: %s", review.Status.Error)
	}
	g.tokens.Add(key, &review.Status.User, tokenTTL)
	return &review.Status.User, nil
}

// authorize allows what any one of the subresources allows: the fine-grained one of a path, or nodes/proxy, which covers all.
func (g *gate) authorize(ctx context.Context, user *authenticationv1.UserInfo, verb string, subresources []string) (bool, error) {
	for _, subresource := range subresources {
		allowed, err := g.mayUser(ctx, user, verb, subresource)
		if err != nil || allowed {
			return allowed, err
		}
	}
	return false, nil
}

func (g *gate) mayUser(ctx context.Context, user *authenticationv1.UserInfo, verb, subresource string) (bool, error) {
	key := fmt.Sprintf("%q %q %q %q %v", verb, subresource, user.Username, user.Groups, user.Extra)
	if allowed, ok := g.rights.Get(key); ok {
		return allowed.(bool), nil
	}
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := g.cfg.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: g.cfg.NodeName},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	ttl := deniedTTL
	if review.Status.Allowed {
		ttl = allowedTTL
	}
	g.rights.Add(key, review.Status.Allowed, ttl)
	return review.Status.Allowed, nil
}

// attributes says which right on the node a request needs: a verb and the subresources of which one suffices.
func attributes(r *http.Request) (verb string, subresources []string) {
	verbs := map[string]string{http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}
	verb = verbs[r.Method]
	path := r.URL.Path
	for _, row := range []struct {
		prefix       string
		subresources []string
	}{
		{"/stats", []string{"stats"}},
		{"/metrics", []string{"metrics"}},
		{"/logs", []string{"log"}},
		{"/checkpoint", []string{"checkpoint"}},
		{"/pods", []string{"pods", "proxy"}},
		{"/runningpods", []string{"pods", "proxy"}},
		{"/healthz", []string{"healthz", "proxy"}},
		{"/configz", []string{"configz", "proxy"}},
	} {
		if path == row.prefix || strings.HasPrefix(path, row.prefix+"/") {
			return verb, row.subresources
		}
	}
	return verb, []string{"proxy"}
}

// caFile is a bundle of certificate authorities that is read again when it changes.
type caFile struct {
	path string

	mu       sync.Mutex
	modified time.Time
	pool     *x509.CertPool
}

func (c *caFile) load() (*x509.CertPool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.path)
	if err != nil {
		return nil, fmt.Errorf("client CA: %w", err)
	}
	if c.pool != nil && info.ModTime().Equal(c.modified) {
		return c.pool, nil
	}
	pem, err := os.ReadFile(c.path)
	if err != nil {
		return nil, fmt.Errorf("client CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("client CA: no certificate in %s", c.path)
	}
	c.pool, c.modified = pool, info.ModTime()
	return pool, nil
}

// verify turns a client certificate into a user: its common name, and its organizations as groups.
func (c *caFile) verify(chain []*x509.Certificate, now time.Time) (*authenticationv1.UserInfo, error) {
	if c.path == "" {
		return nil, fmt.Errorf("client certificates are not accepted")
	}
	roots, err := c.load()
	if err != nil {
		return nil, err
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, fmt.Errorf("verify client certificate: %w", err)
	}
	subject := chain[0].Subject
	groups := append(append([]string{}, subject.Organization...), "system:authenticated")
	return &authenticationv1.UserInfo{Username: subject.CommonName, Groups: groups}, nil
}

// klogErrors sends what net/http has to say, mostly about broken handshakes, to the log at a level where it does not disturb.
func klogErrors(logger logr.Logger) *log.Logger {
	return log.New(logWriter{logger}, "", 0)
}

type logWriter struct{ logger logr.Logger }

func (l logWriter) Write(p []byte) (int, error) {
	l.logger.V(2).Info("Kubelet API", "message", strings.TrimSpace(string(p)))
	return len(p), nil
}
