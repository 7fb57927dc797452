package authorization

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/union"
)

// WebhookConfig is the webhook of mode Webhook, from the flags --authorization-webhook-*.
type WebhookConfig struct {
	KubeconfigFile                 string
	Version                        string
	AuthorizedTTL, UnauthorizedTTL time.Duration
}

// newConfigured chains the authorizers that modes name.
func newConfigured(_ context.Context, cfg Config, built map[string]named) (authorizer.Authorizer, authorizer.RuleResolver, error) {
	if cfg.ConfigFile != "" {
		return nil, nil, errors.New("an AuthorizationConfiguration file is not supported yet")
	}
	modes := cfg.Modes
	if len(modes) == 0 {
		modes = []string{ModeNode, ModeRBAC}
	}
	var chain []union.NamedAuthorizer
	var rules []authorizer.RuleResolver
	for _, mode := range modes {
		one, ok := built[mode]
		if !ok {
			return nil, nil, fmt.Errorf("unknown authorization mode %q", mode)
		}
		chain = append(chain, union.NamedAuthorizer{AuthorizerName: strings.ToLower(mode), Authorizer: one.authorizer})
		rules = append(rules, one.rules)
	}
	all, err := union.New(chain...)
	if err != nil {
		return nil, nil, fmt.Errorf("chain authorizers: %w", err)
	}
	return all, union.NewRuleResolvers(rules...), nil
}
