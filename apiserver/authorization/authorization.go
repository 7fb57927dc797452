// Package authorization decides what a user may do: members of system:masters everything, then the configured authorizers in
// order (nodes by what their pods need, RBAC, webhooks) until one has an opinion.
package authorization

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/client-go/informers"

	"keelson.dev/apiserver/authorization/node"
	"keelson.dev/apiserver/authorization/rbac"
)

// The authorization modes, by the names that --authorization-mode takes.
const (
	ModeNode        = "Node"
	ModeRBAC        = "RBAC"
	ModeWebhook     = "Webhook"
	ModeAlwaysAllow = "AlwaysAllow"
	ModeAlwaysDeny  = "AlwaysDeny"
)

// Config says which authorizers there are.
type Config struct {
	Modes []string // in order; empty means Node, RBAC
	// Informers is where roles, bindings, pods and volumes come from. Build the factory with Transform.
	Informers informers.SharedInformerFactory

	// ConfigFile is an AuthorizationConfiguration, which takes the place of Modes and is reloaded when it changes.
	ConfigFile string
	Webhook    WebhookConfig
	// Dial connects to webhooks; nil connects directly.
	Dial utilnet.DialFunc

	APIServerID string
}

// Authorization is what New returns.
type Authorization struct {
	Authorizer authorizer.Authorizer
	// Rules lists what a user may do, for SelfSubjectRulesReview.
	Rules authorizer.RuleResolver
	// Escalation holds the checks that keep users from granting what they do not have, by the resource that is written.
	Escalation map[schema.GroupResource]rbac.Check
}

// New builds the authorizers. Nothing waits: until the informers have synced, only system:masters and open paths get through.
func New(ctx context.Context, cfg Config) (*Authorization, error) {
	roles, err := rbac.New(cfg.Informers)
	if err != nil {
		return nil, fmt.Errorf("set up RBAC: %w", err)
	}
	nodes, err := node.New(cfg.Informers)
	if err != nil {
		return nil, fmt.Errorf("set up node authorizer: %w", err)
	}
	built := map[string]named{
		ModeNode:        {nodes, nodes},
		ModeRBAC:        {roles, roles},
		ModeAlwaysAllow: {authorizerfactory.NewAlwaysAllowAuthorizer(), authorizerfactory.NewAlwaysAllowAuthorizer()},
		ModeAlwaysDeny:  {authorizerfactory.NewAlwaysDenyAuthorizer(), authorizerfactory.NewAlwaysDenyAuthorizer()},
	}
	all, err := (&builder{
		first: []union.NamedAuthorizer{
			{AuthorizerName: "system-masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		},
		builtin: built, dial: cfg.Dial, compiler: sync.OnceValue(authorizationcel.NewDefaultCompiler),
	}).newReloadable(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Authorization{Authorizer: all, Rules: all, Escalation: rbac.Checks(all, roles)}, nil
}

type named struct {
	authorizer authorizer.Authorizer
	rules      authorizer.RuleResolver
}
