package authentication

import (
	"fmt"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	utilwebhook "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
)

// webhookCacheTTL is how long a webhook's answer is kept if nothing else is said.
const webhookCacheTTL = 2 * time.Minute

// newWebhook returns the authenticator that asks a TokenReview webhook, nil if there is none.
func newWebhook(cfg Config) (authenticator.Token, error) {
	if cfg.WebhookConfigFile == "" {
		return nil, nil
	}
	connection, err := utilwebhook.LoadKubeconfig(cfg.WebhookConfigFile, cfg.Dial)
	if err != nil {
		return nil, fmt.Errorf("read token webhook's kubeconfig: %w", err)
	}
	version := cfg.WebhookVersion
	if version == "" {
		version = "v1"
	}
	hook, err := webhook.New(connection, version, cfg.APIAudiences, *webhook.DefaultRetryBackoff())
	if err != nil {
		return nil, fmt.Errorf("set up token webhook: %w", err)
	}
	ttl := cfg.WebhookCacheTTL
	if ttl == 0 {
		ttl = webhookCacheTTL
	}
	return cache.New(hook, false, ttl, ttl), nil
}
