// Package node lets a node do what it needs for the pods that are bound to it, and nothing else: read the secrets, config maps,
// claims and volumes that those pods name, ask for tokens of their service accounts, and write its own Node, Lease, CSINode and
// pod status. What the NodeRestriction admission plugin can judge only by looking at the object is left to it.
package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/klog/v2"

	"keelson.dev/apiserver/authorization/bootstrap"
	"keelson.dev/apiserver/authorization/rbac"
)

// userPrefix is what the user name of a node's kubelet begins with.
const userPrefix = "system:node:"

// NameOf returns the name of the node that a user is, and whether the user is one at all: in system:nodes and with a
// name of the form system:node:<name>, whose last part may be missing.
func NameOf(who user.Info) (name string, isNode bool) {
	if who == nil || !slices.Contains(who.GetGroups(), user.NodesGroup) {
		return "", false
	}
	name, found := strings.CutPrefix(who.GetName(), userPrefix)
	return name, found
}

// Authorizer decides about requests of nodes and has no opinion on others.
type Authorizer struct {
	related related
	rules   []rbacv1.PolicyRule // what every node may do, whatever runs on it
}

var (
	_ authorizer.Authorizer   = &Authorizer{}
	_ authorizer.RuleResolver = &Authorizer{}
)

// New registers what it needs with the factory; the caller starts it.
func New(factory informers.SharedInformerFactory) (*Authorizer, error) {
	r, err := newRelated(factory)
	if err != nil {
		return nil, err
	}
	return &Authorizer{related: r, rules: bootstrap.NodeRules()}, nil
}

// RulesFor says that its answer is incomplete: what a node may do depends on what runs on it.
func (a *Authorizer) RulesFor(_ context.Context, who user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if _, isNode := NameOf(who); isNode {
		return nil, nil, true, fmt.Errorf("node authorizer does not support user rule resolution for user %q", who.GetName())
	}
	return nil, nil, false, nil
}

// ConditionsAwareAuthorize is Authorize: nodes know no conditions.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, request authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, request))
}

// EvaluateConditions is never reached with a condition of ours.
func (a *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// patience is how long a request may wait for a relation to become known. A kubelet learns of a new pod by the same watch as this
// authorizer, and is often faster: refusing it would cost its pod seconds of back-off.
const patience = 500 * time.Millisecond

// decide asks again when the node's pods change, as long as only the relation is missing.
func (a *Authorizer) decide(ctx context.Context, rule decision, node string, request authorizer.Attributes) string {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		news := a.related.changed(node)
		reason := rule(a.related, node, request)
		if reason != fmt.Sprintf(noRelation, node) {
			return reason
		}
		select {
		case <-news:
		case <-bounded.Done():
			return reason
		}
	}
}

// Authorize allows what the node needs. It never denies: another authorizer may allow more.
func (a *Authorizer) Authorize(ctx context.Context, request authorizer.Attributes) (authorizer.Decision, string, error) {
	node, isNode := NameOf(request.GetUser())
	if !isNode {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if node == "" {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("unknown node for user %q", request.GetUser().GetName()), nil
	}
	if request.IsResourceRequest() {
		if decide, ok := decisions[request.GetAPIGroup()+"/"+request.GetResource()]; ok {
			if reason := a.decide(ctx, decide, node, request); reason != "" {
				klog.FromContext(ctx).V(2).Info("Node refused", "node", node, "verb", request.GetVerb(), "resource", request.GetResource(),
					"namespace", request.GetNamespace(), "name", request.GetName(), "reason", reason)
				return authorizer.DecisionNoOpinion, reason, nil
			}
			return authorizer.DecisionAllow, "", nil
		}
	}
	if rbac.Allows(request, a.rules) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}
