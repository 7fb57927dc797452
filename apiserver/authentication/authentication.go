// Package authentication decides who sends a request: front proxy headers, client certificates, then bearer tokens (service
// accounts, bootstrap tokens, a token file), and last the anonymous user where that is allowed.
package authentication

import (
	"context"
	"fmt"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/egressselector"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/utils/clock"

	"keelson.dev/apiserver/tokens"
)

// tokenCacheTTL is how long an accepted token is accepted without looking again, as upstream: the most that a revocation waits.
const tokenCacheTTL = 10 * time.Second

// Config says which authenticators there are. What is nil or empty is left out.
type Config struct {
	// ClientCA verifies client certificates; its provider reloads the file.
	ClientCA dynamiccertificates.CAContentProvider
	// RequestHeader trusts user names from a front proxy, which is another API server's aggregator.
	RequestHeader *authenticatorfactory.RequestHeaderConfig

	// APIAudiences are the names of this API server that tokens are meant for.
	APIAudiences authenticator.Audiences
	// ServiceAccountIssuers are accepted, the first is used for new tokens.
	ServiceAccountIssuers []string
	ServiceAccountKeys    tokens.Keys
	Objects               tokens.Objects // what service account tokens are bound to

	// BootstrapTokens reads the secrets of bootstrap tokens.
	BootstrapTokens kubernetes.Interface
	// TokenAuthFile is a CSV file of token, user, uid, groups.
	TokenAuthFile string

	// ConfigFile is an AuthenticationConfiguration (OIDC issuers and who may be anonymous), reloaded when it changes.
	ConfigFile string
	// OIDC is the one issuer that flags describe (OIDCFlags), instead of a file. OIDCSigningAlgorithms bounds what tokens may be
	// signed with; empty means every safe algorithm.
	OIDC                  *apiserver.JWTAuthenticator
	OIDCSigningAlgorithms []string
	// WebhookConfigFile is a kubeconfig of a TokenReview webhook; WebhookVersion and WebhookCacheTTL go with it.
	WebhookConfigFile string
	WebhookVersion    string
	WebhookCacheTTL   time.Duration

	// Dial connects to the webhook, and Egress to issuers by what their configuration says; nil connects directly.
	Dial   utilnet.DialFunc
	Egress egressselector.Lookup

	// Anonymous says where requests without credentials pass; nil means the health endpoints only (HealthOnly).
	Anonymous *apiserver.AnonymousAuthConfig

	APIServerID string
	Clock       clock.PassiveClock // nil means the real one
}

// HealthOnly lets anonymous requests reach the health endpoints and nothing else.
func HealthOnly() *apiserver.AnonymousAuthConfig {
	return &apiserver.AnonymousAuthConfig{
		Enabled:    true,
		Conditions: []apiserver.AnonymousAuthCondition{{Path: "/livez"}, {Path: "/readyz"}, {Path: "/healthz"}},
	}
}

// New returns the authenticator of all requests. Its background work ends with ctx.
func New(ctx context.Context, cfg Config) (authenticator.Request, *spec.SecurityDefinitions, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Anonymous == nil {
		cfg.Anonymous = HealthOnly()
	}
	dynamic, err := newConfigured(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	bearer, err := newBearer(cfg, dynamic)
	if err != nil {
		return nil, nil, err
	}
	// The front proxy comes first: its own client certificate must not be taken for the user.
	var requests []authenticator.Request
	if h := cfg.RequestHeader; h != nil {
		requests = append(requests, headerrequest.NewDynamicVerifyOptionsSecure(h.CAContentProvider.VerifyOptions, h.AllowedClientNames,
			h.UsernameHeaders, h.UIDHeaders, h.GroupHeaders, h.ExtraHeaderPrefixes))
	}
	if cfg.ClientCA != nil {
		requests = append(requests, newClientCertificates(cfg.ClientCA.VerifyOptions, cfg.Clock))
	}
	definitions := spec.SecurityDefinitions{}
	if bearer != nil {
		requests = append(requests, bearertoken.New(bearer), websocket.NewProtocolAuthenticator(bearer))
		definitions["BearerToken"] = &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
			Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
		}}
	}
	all := group.NewAuthenticatedGroupAdder(union.New(requests...))
	// A request whose credentials are bad must not become anonymous, so this comes last and an error before it is the answer.
	switch {
	case dynamic != nil:
		all = union.NewFailOnError(all, dynamic)
	case cfg.Anonymous.Enabled:
		all = union.NewFailOnError(all, anonymous.NewAuthenticator(cfg.Anonymous.Conditions))
	}
	return all, &definitions, nil
}

// newBearer returns the authenticator of bearer tokens, nil if there is no kind of them.
func newBearer(cfg Config, dynamic *configured) (authenticator.Token, error) {
	var all []authenticator.Token
	if cfg.TokenAuthFile != "" {
		file, err := tokenfile.NewCSV(cfg.TokenAuthFile)
		if err != nil {
			return nil, fmt.Errorf("read token file: %w", err)
		}
		all = append(all, authenticator.WrapAudienceAgnosticToken(cfg.APIAudiences, file))
	}
	if cfg.ServiceAccountKeys != nil {
		all = append(all, &tokens.Authenticator{
			Issuers: cfg.ServiceAccountIssuers, Keys: cfg.ServiceAccountKeys, Audiences: cfg.APIAudiences,
			Objects: cfg.Objects, Clock: cfg.Clock,
		})
	}
	if cfg.BootstrapTokens != nil {
		bootstrap := &bootstrapTokens{client: cfg.BootstrapTokens, clock: cfg.Clock}
		all = append(all, authenticator.WrapAudienceAgnosticToken(cfg.APIAudiences, bootstrap))
	}
	if dynamic != nil {
		all = append(all, authenticator.WrapAudienceAgnosticToken(cfg.APIAudiences, authenticator.TokenFunc(dynamic.AuthenticateToken)))
	}
	webhook, err := newWebhook(cfg)
	if err != nil {
		return nil, err
	}
	if webhook != nil {
		all = append(all, webhook)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return cache.New(tokenunion.New(all...), true, tokenCacheTTL, 0), nil
}
