package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/egressselector"

	"keelson.dev/apiserver/authentication"
	"keelson.dev/apiserver/authorization"
	"keelson.dev/apiserver/tokens"
	"keelson.dev/apiserver/tokens/external"
)

// security is who may do what: the authenticator, the authorizer and the keys of service account tokens.
type security struct {
	audiences authenticator.Audiences
	keys      tokens.Keys
	signer    tokens.Signer
	// maxTokenLifetime bounds what may be asked for, 0 does not.
	maxTokenLifetime time.Duration
	clientCA         dynamiccertificates.CAContentProvider
	requestHeader    *authenticatorfactory.RequestHeaderConfig
	authorization    *authorization.Authorization
}

func newSecurity(ctx context.Context, c *config) (*security, error) {
	s := &security{}
	if err := s.readKeys(ctx, c.options); err != nil {
		return nil, err
	}
	if err := s.readAuthorities(c); err != nil {
		return nil, err
	}
	if err := s.authenticate(ctx, c); err != nil {
		return nil, err
	}
	return s, s.authorize(ctx, c)
}

// readKeys finds who signs service account tokens: this server with a key of a file, or another process.
func (s *security) readKeys(ctx context.Context, o *Options) error {
	tokens.RegisterMetrics()
	account := o.ServiceAccount
	s.audiences = o.Authentication.APIAudiences
	if len(s.audiences) == 0 {
		s.audiences = account.Issuers
	}
	s.maxTokenLifetime = account.MaxExpiration
	if account.SigningEndpoint == "" {
		files, err := tokens.ReadKeyFiles(account.SigningKeyFile, account.KeyFiles)
		if err != nil {
			return err
		}
		files.Follow(ctx)
		s.keys, s.signer = files, files
		return nil
	}
	signer, err := external.Connect(ctx, account.SigningEndpoint)
	if err != nil {
		return err
	}
	switch {
	case s.maxTokenLifetime == 0:
		s.maxTokenLifetime = signer.MaxLifetime
	case s.maxTokenLifetime > signer.MaxLifetime:
		return fmt.Errorf("service-account-max-token-expiration cannot be set longer than the token expiration supported by "+
			"service-account-signing-endpoint: %s > %s", s.maxTokenLifetime, signer.MaxLifetime)
	}
	s.keys, s.signer = signer, signer
	return nil
}

func (s *security) readAuthorities(c *config) error {
	a := c.options.Authentication
	if a.ClientCAFile != "" {
		ca, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca-bundle", a.ClientCAFile)
		if err != nil {
			return fmt.Errorf("--client-ca-file: %w", err)
		}
		s.clientCA = ca
		if err := c.generic.Authentication.ApplyClientCert(ca, c.generic.SecureServing); err != nil {
			return fmt.Errorf("--client-ca-file: %w", err)
		}
	}
	if a.RequestHeaderCAFile == "" {
		return nil
	}
	ca, err := dynamiccertificates.NewDynamicCAContentFromFile("request-header", a.RequestHeaderCAFile)
	if err != nil {
		return fmt.Errorf("--requestheader-client-ca-file: %w", err)
	}
	s.requestHeader = &authenticatorfactory.RequestHeaderConfig{
		CAContentProvider:   ca,
		UsernameHeaders:     headerrequest.StaticStringSlice(orDefault(a.RequestHeaderNames, "X-Remote-User")),
		UIDHeaders:          headerrequest.StaticStringSlice(orDefault(a.RequestHeaderUIDs, "X-Remote-Uid")),
		GroupHeaders:        headerrequest.StaticStringSlice(orDefault(a.RequestHeaderGroups, "X-Remote-Group")),
		ExtraHeaderPrefixes: headerrequest.StaticStringSlice(orDefault(a.RequestHeaderExtra, "X-Remote-Extra-")),
		AllowedClientNames:  headerrequest.StaticStringSlice(a.RequestHeaderAllowedCNs),
	}
	if err := c.generic.Authentication.ApplyClientCert(ca, c.generic.SecureServing); err != nil {
		return fmt.Errorf("--requestheader-client-ca-file: %w", err)
	}
	c.generic.Authentication.RequestHeaderConfig = s.requestHeader
	return nil
}

func orDefault(values []string, fallback string) []string {
	if len(values) == 0 {
		return []string{fallback}
	}
	return values
}

func (s *security) authenticate(ctx context.Context, c *config) error {
	a := c.options.Authentication
	cfg := authentication.Config{
		ClientCA: s.clientCA, RequestHeader: s.requestHeader, APIAudiences: s.audiences,
		ServiceAccountIssuers: c.options.ServiceAccount.Issuers, ServiceAccountKeys: s.keys,
		TokenAuthFile: a.TokenAuthFile, ConfigFile: a.ConfigFile,
		WebhookConfigFile: a.WebhookConfigFile, WebhookVersion: a.WebhookVersion, WebhookCacheTTL: a.WebhookCacheTTL,
		APIServerID: c.generic.APIServerID,
	}
	if a.Anonymous != nil { // unasked, they reach the health endpoints only
		cfg.Anonymous = &apiserver.AnonymousAuthConfig{Enabled: *a.Anonymous}
	}
	if c.options.ServiceAccount.Lookup {
		cfg.Objects = tokens.NewObjects(c.client, c.informers)
	}
	if a.BootstrapTokens {
		cfg.BootstrapTokens = c.client
	}
	var err error
	if cfg.Dial, err = c.dialer(egressselector.ControlPlane); err != nil {
		return err
	}
	if selector := c.generic.EgressSelector; selector != nil {
		cfg.Egress = selector.Lookup
	}
	issuer, err := authentication.OIDCFlags{
		IssuerURL: a.OIDCIssuerURL, ClientID: a.OIDCClientID, CAFile: a.OIDCCAFile,
		UsernameClaim: a.OIDCUsernameClaim, UsernamePrefix: a.OIDCUsernamePrefix,
		GroupsClaim: a.OIDCGroupsClaim, GroupsPrefix: a.OIDCGroupsPrefix, RequiredClaims: a.OIDCRequiredClaims,
	}.Issuer()
	if err != nil {
		return fmt.Errorf("--oidc-*: %w", err)
	}
	if cfg.OIDC = issuer; issuer != nil {
		cfg.OIDCSigningAlgorithms = a.OIDCSigningAlgs
	}
	auth, definitions, err := authentication.New(ctx, cfg)
	if err != nil {
		return fmt.Errorf("set up authentication: %w", err)
	}
	c.generic.Authentication.Authenticator = roomy{auth}
	c.generic.Authentication.APIAudiences = s.audiences
	c.generic.OpenAPIConfig.SecurityDefinitions = definitions
	c.generic.OpenAPIV3Config.SecuritySchemes = securitySchemes(definitions)
	return nil
}

func (s *security) authorize(ctx context.Context, c *config) error {
	a := c.options.Authorization
	dial, err := c.dialer(egressselector.ControlPlane)
	if err != nil {
		return err
	}
	auth, err := authorization.New(ctx, authorization.Config{
		Modes: a.Modes, Informers: c.informers, ConfigFile: a.ConfigFile, Dial: dial, APIServerID: c.generic.APIServerID,
		Webhook: authorization.WebhookConfig{
			KubeconfigFile: a.WebhookConfigFile, Version: a.WebhookVersion,
			AuthorizedTTL: a.WebhookCacheAuthorizedTTL, UnauthorizedTTL: a.WebhookCacheUnauthorizedTTL,
		},
	})
	if err != nil {
		return fmt.Errorf("set up authorization: %w", err)
	}
	s.authorization = auth
	c.generic.Authorization.Authorizer = auth.Authorizer
	c.generic.RuleResolver = auth.Rules
	return nil
}

// publishKeys serves the documents that let others verify our service account tokens. An issuer that is no https URL has nothing that
// others could fetch; upstream serves such clusters without the documents, too.
func (s *security) publishKeys(c *config, server *genericapiserver.GenericAPIServer) error {
	o := c.options.ServiceAccount
	if len(o.Issuers) == 0 || !strings.HasPrefix(o.Issuers[0], "https://") {
		return nil
	}
	discovery, err := tokens.NewDiscovery(o.Issuers[0], o.JWKSURI, server.ExternalAddress, s.keys)
	if err != nil {
		return fmt.Errorf("--service-account-issuer: %w", err)
	}
	discovery.Install(server.Handler.GoRestfulContainer)
	return nil
}
