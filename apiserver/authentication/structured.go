package authentication

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/options/authenticationconfig/metrics"
	"k8s.io/apiserver/pkg/util/filesystem"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
	"k8s.io/klog/v2"
)

const (
	// reloadInterval is how often the file is looked at besides when the system tells that it has changed.
	reloadInterval = time.Minute
	// issuerWait bounds how long the former issuers stay in use while new ones have not been reached yet.
	issuerWait = time.Minute
)

// configured holds the issuers of an AuthenticationConfiguration and who may be anonymous. They are exchanged as a whole when the
// file changes.
type configured struct {
	cfg      Config
	compiler func() authenticationcel.Compiler // takes memory, so it is built for the first issuer
	current  atomic.Pointer[issuers]
}

// issuers are the authenticators of one version of the configuration.
type issuers struct {
	tokens    authenticator.Token // nil without issuers
	healthy   []func() error
	anonymous authenticator.Request // nil: nobody
	stop      context.CancelFunc
}

// newConfigured reads the configuration file, or takes what flags say about one issuer. Without either it returns nil.
func newConfigured(ctx context.Context, cfg Config) (*configured, error) {
	c := &configured{cfg: cfg, compiler: sync.OnceValue(authenticationcel.NewDefaultCompiler)}
	switch {
	case cfg.ConfigFile == "" && cfg.OIDC == nil:
		return nil, nil
	case cfg.ConfigFile != "" && cfg.OIDC != nil:
		return nil, errors.New("an authentication configuration file and an OpenID issuer in flags exclude each other")
	case cfg.OIDC != nil:
		first, err := c.build(ctx, &apiserver.AuthenticationConfiguration{JWT: []apiserver.JWTAuthenticator{*cfg.OIDC}})
		c.current.Store(first)
		return c, err
	}
	first, data, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	c.current.Store(first)
	metrics.RegisterMetrics()
	metrics.RecordAuthenticationConfigLastConfigInfo(cfg.APIServerID, string(data))
	go c.follow(ctx, data)
	return c, nil
}

// AuthenticateToken asks the issuers of the newest configuration.
func (c *configured) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	current := c.current.Load()
	if current.tokens == nil {
		return nil, false, nil
	}
	return current.tokens.AuthenticateToken(ctx, token)
}

// AuthenticateRequest lets anonymous requests through as the newest configuration says.
func (c *configured) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	current := c.current.Load()
	if current.anonymous == nil {
		return nil, false, nil
	}
	return current.anonymous.AuthenticateRequest(r)
}

// follow exchanges the issuers whenever the file has new and valid content; with a bad one the former stay.
func (c *configured) follow(ctx context.Context, last []byte) {
	log := klog.FromContext(ctx)
	filesystem.WatchUntil(ctx, reloadInterval, c.cfg.ConfigFile, func() {
		if data, err := os.ReadFile(c.cfg.ConfigFile); err == nil && slices.Equal(data, last) {
			return
		}
		next, data, err := c.read(ctx)
		if err == nil {
			err = next.wait(ctx)
		}
		if err != nil {
			if next != nil {
				next.stop()
			}
			log.Error(err, "Kept the former authentication configuration")
			metrics.RecordAuthenticationConfigAutomaticReloadFailure(c.cfg.APIServerID)
			return
		}
		last = data
		former := c.current.Swap(next)
		former.stop()
		log.Info("Reloaded the authentication configuration", "file", c.cfg.ConfigFile)
		metrics.RecordAuthenticationConfigAutomaticReloadSuccess(c.cfg.APIServerID, string(data))
	}, func(err error) { log.Error(err, "Could not watch the authentication configuration") })
}

// wait returns when every issuer's keys have been fetched; the library tells of it only when asked.
func (i *issuers) wait(ctx context.Context) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, time.Second, issuerWait, true, func(context.Context) (bool, error) {
		var errs []error
		for _, healthy := range i.healthy {
			errs = append(errs, healthy())
		}
		last = errors.Join(errs...)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for issuers: %w", errors.Join(err, last))
	}
	return nil
}

func (c *configured) read(ctx context.Context) (*issuers, []byte, error) {
	data, err := os.ReadFile(c.cfg.ConfigFile)
	if err != nil {
		return nil, nil, fmt.Errorf("read authentication configuration: %w", err)
	}
	configuration, err := decode(data)
	if err != nil {
		return nil, nil, err
	}
	built, err := c.build(ctx, configuration)
	return built, data, err
}

func decode(data []byte) (*apiserver.AuthenticationConfiguration, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	obj, err := runtime.Decode(codecs.UniversalDecoder(), data)
	if err != nil {
		return nil, fmt.Errorf("decode authentication configuration: %w", err)
	}
	configuration, ok := obj.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return nil, fmt.Errorf("expected AuthenticationConfiguration, got %T", obj)
	}
	return configuration, nil
}

// build makes the authenticators of one configuration. Its issuers are reached in the background, until ctx ends or it is replaced.
func (c *configured) build(ctx context.Context, configuration *apiserver.AuthenticationConfiguration) (*issuers, error) {
	disallowed := c.cfg.ServiceAccountIssuers // nobody else may issue tokens in our name
	var compiler authenticationcel.Compiler
	if len(configuration.JWT) > 0 {
		compiler = c.compiler()
	}
	if errs := validation.ValidateAuthenticationConfiguration(compiler, configuration, disallowed); len(errs) > 0 {
		return nil, fmt.Errorf("authentication configuration: %w", errs.ToAggregate())
	}
	who := configuration.Anonymous
	if who == nil {
		who = c.cfg.Anonymous
	}
	ctx, stop := context.WithCancel(ctx)
	built := &issuers{stop: stop}
	if who.Enabled {
		built.anonymous = anonymous.NewAuthenticator(who.Conditions)
	}
	algorithms := c.cfg.OIDCSigningAlgorithms
	if len(algorithms) == 0 {
		algorithms = oidc.AllValidSigningAlgorithms()
	}
	var all []authenticator.Token
	for _, one := range configuration.JWT {
		options := oidc.Options{
			JWTAuthenticator: one, Compiler: compiler, SupportedSigningAlgs: algorithms,
			DisallowedIssuers: disallowed, APIServerID: c.cfg.APIServerID, EgressLookup: c.cfg.Egress,
		}
		if one.Issuer.CertificateAuthority != "" {
			ca, err := dynamiccertificates.NewStaticCAContent("oidc-authenticator", []byte(one.Issuer.CertificateAuthority))
			if err != nil {
				stop()
				return nil, fmt.Errorf("CA of issuer %s: %w", one.Issuer.URL, err)
			}
			options.CAContentProvider = ca
		}
		issuer, err := oidc.New(ctx, options)
		if err != nil {
			stop()
			return nil, fmt.Errorf("issuer %s: %w", one.Issuer.URL, err)
		}
		all, built.healthy = append(all, issuer), append(built.healthy, issuer.HealthCheck)
	}
	if len(all) > 0 {
		built.tokens = tokenunion.New(all...)
	}
	return built, nil
}

// OIDCFlags are the --oidc-* flags, which describe one issuer.
type OIDCFlags struct {
	IssuerURL, ClientID, CAFile   string
	UsernameClaim, UsernamePrefix string
	GroupsClaim, GroupsPrefix     string
	RequiredClaims                map[string]string
}

// Issuer returns what the flags mean, nil if they name no issuer.
func (f OIDCFlags) Issuer() (*apiserver.JWTAuthenticator, error) {
	if f.IssuerURL == "" {
		return nil, nil
	}
	if f.ClientID == "" {
		return nil, errors.New("an OpenID issuer needs a client ID")
	}
	// Without a prefix, names other than mail addresses carry the issuer's URL; "-" stands for no prefix.
	prefix := f.UsernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && f.UsernameClaim != "email":
		prefix = f.IssuerURL + "#"
	}
	one := &apiserver.JWTAuthenticator{
		Issuer:        apiserver.Issuer{URL: f.IssuerURL, Audiences: []string{f.ClientID}},
		ClaimMappings: apiserver.ClaimMappings{Username: apiserver.PrefixedClaimOrExpression{Claim: f.UsernameClaim, Prefix: &prefix}},
	}
	if f.GroupsClaim != "" {
		groups := f.GroupsPrefix
		one.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: f.GroupsClaim, Prefix: &groups}
	}
	for claim, value := range f.RequiredClaims {
		one.ClaimValidationRules = append(one.ClaimValidationRules, apiserver.ClaimValidationRule{Claim: claim, RequiredValue: value})
	}
	slices.SortFunc(one.ClaimValidationRules, func(a, b apiserver.ClaimValidationRule) int { return strings.Compare(a.Claim, b.Claim) })
	if f.CAFile != "" {
		ca, err := os.ReadFile(f.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read CA of the OpenID issuer: %w", err)
		}
		one.Issuer.CertificateAuthority = string(ca)
	}
	return one, nil
}
