package authorization

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/load"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	authorizationmetrics "k8s.io/apiserver/pkg/authorization/metrics"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/apiserver/pkg/server/options/authorizationconfig/metrics"
	"k8s.io/apiserver/pkg/util/filesystem"
	utilwebhook "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authorizer/webhook"
	webhookmetrics "k8s.io/apiserver/plugin/pkg/authorizer/webhook/metrics"
	"k8s.io/klog/v2"
)

const (
	// webhookTimeout is for a webhook that is configured by flags, which have no word for it; the same as upstream's.
	webhookTimeout = 30 * time.Second
	// reloadInterval is how often the file is looked at besides when the system tells that it has changed.
	reloadInterval = time.Minute
)

// WebhookConfig is the webhook of mode Webhook, from the flags --authorization-webhook-*.
type WebhookConfig struct {
	KubeconfigFile                 string
	Version                        string
	AuthorizedTTL, UnauthorizedTTL time.Duration
}

// set is the authorizers of one version of the configuration.
type set struct {
	authorizer authorizer.Authorizer
	rules      authorizer.RuleResolver
}

// reloadable asks the authorizers of the newest valid configuration. A decision that carries conditions is evaluated by the
// newest ones, too: what was taken from the configuration must not decide any more.
type reloadable struct {
	current atomic.Pointer[set]
}

var (
	_ authorizer.Authorizer   = &reloadable{}
	_ authorizer.RuleResolver = &reloadable{}
)

func (r *reloadable) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	return r.current.Load().authorizer.Authorize(ctx, a)
}

func (r *reloadable) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return r.current.Load().authorizer.ConditionsAwareAuthorize(ctx, a)
}

func (r *reloadable) EvaluateConditions(ctx context.Context, d authorizer.ConditionsAwareDecision, data authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return r.current.Load().authorizer.EvaluateConditions(ctx, d, data)
}

func (r *reloadable) RulesFor(ctx context.Context, who user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return r.current.Load().rules.RulesFor(ctx, who, namespace)
}

// builder turns configurations into authorizers.
type builder struct {
	first   []union.NamedAuthorizer // in front of what is configured
	builtin map[string]named        // by type
	dial    utilnet.DialFunc        // to webhooks; nil connects directly
	// compiler compiles the match conditions of webhooks. Building it takes memory, so it is built for the first such condition.
	compiler func() authorizationcel.Compiler
}

// newReloadable builds the authorizers of the modes or of the configuration file, and keeps up with the file until ctx ends.
func (b *builder) newReloadable(ctx context.Context, cfg Config) (*reloadable, error) {
	r := &reloadable{}
	if cfg.ConfigFile == "" {
		configuration, err := fromModes(cfg)
		if err != nil {
			return nil, err
		}
		first, err := b.build(configuration)
		if err != nil {
			return nil, err
		}
		r.current.Store(first)
		return r, nil
	}
	first, data, err := b.read(cfg.ConfigFile)
	if err != nil {
		return nil, err
	}
	r.current.Store(first)
	metrics.RegisterMetrics()
	metrics.RecordAuthorizationConfigLastConfigInfo(cfg.APIServerID, string(data))
	go b.follow(ctx, r, cfg, data)
	return r, nil
}

// follow replaces the authorizers whenever the file has new and valid content; with a bad one the former stay.
func (b *builder) follow(ctx context.Context, r *reloadable, cfg Config, last []byte) {
	log := klog.FromContext(ctx)
	filesystem.WatchUntil(ctx, reloadInterval, cfg.ConfigFile, func() {
		data, err := os.ReadFile(cfg.ConfigFile)
		if err == nil && slices.Equal(data, last) {
			return
		}
		next, data, err := b.read(cfg.ConfigFile)
		if err != nil {
			log.Error(err, "Kept the former authorization configuration")
			metrics.RecordAuthorizationConfigAutomaticReloadFailure(cfg.APIServerID)
			return
		}
		last = data
		r.current.Store(next)
		log.Info("Reloaded the authorization configuration", "file", cfg.ConfigFile)
		metrics.RecordAuthorizationConfigAutomaticReloadSuccess(cfg.APIServerID, string(data))
	}, func(err error) { log.Error(err, "Could not watch the authorization configuration") })
}

func (b *builder) read(file string) (*set, []byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("read authorization configuration: %w", err)
	}
	configuration, err := load.LoadFromData(data)
	if err != nil {
		return nil, nil, fmt.Errorf("decode authorization configuration: %w", err)
	}
	built, err := b.build(configuration)
	return built, data, err
}

// build makes the chain of one configuration.
func (b *builder) build(configuration *apiserver.AuthorizationConfiguration) (*set, error) {
	var compiler authorizationcel.Compiler
	if slices.ContainsFunc(configuration.Authorizers, func(c apiserver.AuthorizerConfiguration) bool { return c.Webhook != nil }) {
		compiler = b.compiler()
	}
	known := sets.KeySet(b.builtin).Insert(ModeWebhook)
	if errs := validation.ValidateAuthorizationConfiguration(compiler, nil, configuration, known, sets.New(ModeWebhook)); len(errs) > 0 {
		return nil, fmt.Errorf("authorization configuration: %w", errs.ToAggregate())
	}
	chain := slices.Clone(b.first)
	var rules []authorizer.RuleResolver
	for _, c := range configuration.Authorizers {
		one, ok := b.builtin[string(c.Type)]
		if !ok {
			hook, err := b.newWebhook(c)
			if err != nil {
				return nil, fmt.Errorf("authorizer %s: %w", c.Name, err)
			}
			one = named{hook, hook}
		}
		counted := authorizationmetrics.InstrumentedAuthorizer(string(c.Type), c.Name, one.authorizer)
		chain = append(chain, union.NamedAuthorizer{AuthorizerName: c.Name, Authorizer: counted})
		rules = append(rules, one.rules)
	}
	all, err := union.New(chain...)
	if err != nil {
		return nil, fmt.Errorf("chain authorizers: %w", err)
	}
	return &set{authorizer: all, rules: union.NewRuleResolvers(rules...)}, nil
}

func (b *builder) newWebhook(c apiserver.AuthorizerConfiguration) (*webhook.WebhookAuthorizer, error) {
	w := c.Webhook
	if w.ConnectionInfo.Type != apiserver.AuthorizationWebhookConnectionInfoTypeKubeConfigFile {
		return nil, fmt.Errorf("connection type %q would ask this server itself", w.ConnectionInfo.Type)
	}
	connection, err := utilwebhook.LoadKubeconfig(*w.ConnectionInfo.KubeConfigFile, b.dial)
	if err != nil {
		return nil, fmt.Errorf("read webhook's kubeconfig: %w", err)
	}
	connection.Timeout = w.Timeout.Duration
	onError := authorizer.DecisionNoOpinion
	if w.FailurePolicy == apiserver.FailurePolicyDeny {
		onError = authorizer.DecisionDeny
	}
	kept := func(keep bool, ttl time.Duration) time.Duration {
		if !keep {
			return 0
		}
		return ttl
	}
	webhookmetrics.RegisterWebhookMetrics()
	authorizationcel.RegisterMetrics()
	return webhook.New(connection, w.SubjectAccessReviewVersion,
		kept(w.CacheAuthorizedRequests, w.AuthorizedTTL.Duration), kept(w.CacheUnauthorizedRequests, w.UnauthorizedTTL.Duration),
		*webhook.DefaultRetryBackoff(), onError, w.MatchConditions, c.Name,
		webhookRecorder{webhookmetrics.NoopRequestMetrics{}, webhookmetrics.NewWebhookMetrics(), authorizationcel.NewMatcherMetrics()}, b.compiler())
}

// webhookRecorder counts what each webhook decided; the requests themselves are counted by the HTTP client.
type webhookRecorder struct {
	webhookmetrics.RequestMetrics
	webhookmetrics.WebhookMetrics
	authorizationcel.MatcherMetrics
}

// fromModes is the configuration that the flags mean.
func fromModes(cfg Config) (*apiserver.AuthorizationConfiguration, error) {
	modes := cfg.Modes
	if len(modes) == 0 {
		modes = []string{ModeNode, ModeRBAC}
	}
	configuration := &apiserver.AuthorizationConfiguration{}
	for _, mode := range modes {
		one := apiserver.AuthorizerConfiguration{Type: apiserver.AuthorizerType(mode), Name: strings.ToLower(mode)}
		if mode == ModeWebhook {
			if cfg.Webhook.KubeconfigFile == "" {
				return nil, errors.New("authorization mode Webhook needs a webhook's kubeconfig")
			}
			one.Name = "default"
			one.Webhook = &apiserver.WebhookConfiguration{
				AuthorizedTTL:             metav1.Duration{Duration: orElse(cfg.Webhook.AuthorizedTTL, 5*time.Minute)},
				UnauthorizedTTL:           metav1.Duration{Duration: orElse(cfg.Webhook.UnauthorizedTTL, 30*time.Second)},
				CacheAuthorizedRequests:   true,
				CacheUnauthorizedRequests: true,
				Timeout:                   metav1.Duration{Duration: webhookTimeout},
				FailurePolicy:             apiserver.FailurePolicyNoOpinion,
				ConnectionInfo: apiserver.WebhookConnectionInfo{
					Type: apiserver.AuthorizationWebhookConnectionInfoTypeKubeConfigFile, KubeConfigFile: &cfg.Webhook.KubeconfigFile,
				},
				SubjectAccessReviewVersion: orElse(cfg.Webhook.Version, "v1"),
			}
		}
		configuration.Authorizers = append(configuration.Authorizers, one)
	}
	return configuration, nil
}

func orElse[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}
