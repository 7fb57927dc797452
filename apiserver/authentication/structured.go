package authentication

import (
	"context"
	"errors"
	"net/http"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// configured holds the authenticators of an AuthenticationConfiguration file; they are exchanged when the file changes.
type configured struct {
	ownsAnonymous bool
}

func newConfigured(_ context.Context, cfg *Config) (*configured, error) {
	if cfg.ConfigFile != "" {
		return nil, errors.New("an AuthenticationConfiguration file is not supported yet")
	}
	return nil, nil
}

func (c *configured) AuthenticateToken(context.Context, string) (*authenticator.Response, bool, error) {
	return nil, false, nil
}

func (c *configured) anonymous() authenticator.Request {
	return authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) { return nil, false, nil })
}

func newWebhook(cfg Config) (authenticator.Token, error) {
	if cfg.WebhookConfigFile != "" {
		return nil, errors.New("a token webhook is not supported yet")
	}
	return nil, nil
}
