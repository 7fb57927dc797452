// Package proxier keeps the kernel's service rules equal to what the API server says: it watches Services, EndpointSlices and
// its own Node, turns them into rules (package rules) and writes what changed (package nftables).
//
//	watch event -> the Service is dirty -> wake -> one transaction for all that are dirty by then
//
// There is no timer in this: a change is written at once, and changes that arrive while one is being written go together.
package proxier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/internal/apiclient"
	"keelson.dev/proxy-lite/conntrack"
	"keelson.dev/proxy-lite/nftables"
	"keelson.dev/proxy-lite/rules"
)

// Config says what a node's proxy does.
type Config struct {
	// RESTConfig reaches the API server; its user needs the rights of system:node-proxier.
	RESTConfig *rest.Config
	// NodeName is the Node whose addresses and topology count as local.
	NodeName string
	// ClusterCIDR holds the pod CIDRs of the whole cluster, separated by commas. Service traffic from other sources is
	// masqueraded, and so is pod traffic that leaves it when MasqueradeEgress is set.
	ClusterCIDR string
	// MasqueradeEgress rewrites the source of pod traffic to destinations outside ClusterCIDR to the node's address.
	MasqueradeEgress bool
	// MasqueradeAll rewrites the source of all traffic to service IPs.
	MasqueradeAll bool
	// HealthzBindAddress serves /healthz and /livez. Empty means 0.0.0.0:10256, "-" means no server.
	HealthzBindAddress string
	// MetricsBindAddress serves /metrics and, with Profiling, /debug/pprof without TLS. Empty means no server: the agent's own port has
	// the metrics of the process.
	MetricsBindAddress string
	Profiling          bool
	// NodePortCIDRs limits the node addresses that answer on node ports; "all" and "primary", the internal ones, are allowed. Empty means the node's own InternalIPs.
	NodePortCIDRs []string
	// LoadBalancers makes the node answer for the load-balancer addresses that our controller gives to it.
	LoadBalancers bool
	// NetworkPolicy enforces NetworkPolicies on this node. It needs to list and watch networkpolicies, pods and namespaces, which
	// system:node-proxier may not.
	NetworkPolicy bool
}

// retryAfter is how long the proxy waits after the kernel refused a transaction.
const retryAfter = time.Second

// writer is one IP family of the kernel.
type writer interface {
	Update(ctx context.Context, changed ...rules.Service) error
	// Family is IPv4 or IPv6.
	Family() corev1.IPFamily
}

// Proxier is a running proxy.
type Proxier struct {
	cfg          Config
	rulesConfig  rules.Config
	clock        clock.Clock
	started      time.Time
	services     corelisters.ServiceLister
	slices       cache.Indexer
	writers      []writer
	health       *health
	healthChecks *healthChecks
	policies     *policer
	announcer    *announcer // nil: none

	// current is what the kernel has. Only the loop uses it.
	current map[types.NamespacedName]rules.Service
	flows   conntrack.Flows
	// flowTimer is when the flows are to be looked at again.
	flowTimer clock.Timer

	mu    sync.Mutex
	node  rules.Node
	dirty map[types.NamespacedName]bool
	wake  chan struct{}
	// triggers are when the changes happened that are not yet written, as EndpointSlices tell it.
	triggers []time.Time
}

// Run writes service rules until ctx ends; it leaves them in the kernel, so that traffic goes on while it is restarted.
func Run(ctx context.Context, cfg Config) error {
	p, client, err := open(cfg)
	if err != nil {
		return err
	}
	return p.run(ctx, client)
}

// DryRun returns the rules that Run would write now, and touches nothing.
func DryRun(ctx context.Context, cfg Config) (rules.Rules, error) {
	p, client, err := open(cfg)
	if err != nil {
		return rules.Rules{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := p.watch(ctx, client)
	if err != nil {
		return rules.Rules{}, err
	}
	defer w.stop()
	defer cancel()
	if err := w.sync(ctx); err != nil {
		return rules.Rules{}, err
	}
	_, node, _ := p.takeDirty()
	out := rules.Rules{Config: p.rulesConfig, Services: map[types.NamespacedName]rules.Service{}}
	for _, svc := range p.allServices() {
		name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
		if out.Services[name], err = p.compute(name, node); err != nil {
			return rules.Rules{}, err
		}
	}
	return out, nil
}

func open(cfg Config) (*Proxier, kubernetes.Interface, error) {
	rulesConfig, err := cfg.rules()
	if err != nil {
		return nil, nil, err
	}
	client, err := apiclient.Clientset(apiclient.Config(cfg.RESTConfig, "proxy-lite"))
	return newProxier(cfg, rulesConfig), client, err
}

func newProxier(cfg Config, rulesConfig rules.Config) *Proxier {
	p := &Proxier{
		cfg: cfg, rulesConfig: rulesConfig, clock: clock.RealClock{}, started: time.Now(),
		health: newHealth(clock.RealClock{}), healthChecks: newHealthChecks(),
		current: map[types.NamespacedName]rules.Service{},
		dirty:   map[types.NamespacedName]bool{}, wake: make(chan struct{}, 1),
		policies: newPolicer(cfg.NodeName), flows: conntrack.Flows{Patience: conntrack.Patience},
	}
	if cfg.LoadBalancers {
		p.announcer = &announcer{node: cfg.NodeName, addresses: map[types.NamespacedName]netip.Addr{}}
	}
	return p
}

func (p *Proxier) run(ctx context.Context, client kubernetes.Interface) error {
	registerMetrics()
	cfg := p.cfg
	if err := p.openWriters(); err != nil {
		return err
	}
	if err := conntrack.Tune(); err != nil {
		klog.FromContext(ctx).Error(err, "Clients that soon use the port of a reset connection again may wait for some seconds")
	}
	w, err := p.watch(ctx, client)
	if err != nil {
		return err
	}
	defer w.stop()
	if cfg.HealthzBindAddress != "-" {
		stop, err := p.health.serve(ctx, cfg.HealthzBindAddress)
		if err != nil {
			return err
		}
		defer stop()
	}
	if cfg.MetricsBindAddress != "" {
		stop, err := serveMetrics(ctx, cfg.MetricsBindAddress, cfg.Profiling)
		if err != nil {
			return err
		}
		defer stop()
	}
	defer p.healthChecks.close()
	if cfg.NetworkPolicy {
		stop, err := p.policies.start(ctx, client)
		if err != nil {
			return err
		}
		defer stop()
	}
	if err := w.sync(ctx); err != nil {
		return ignoreCanceled(ctx, err)
	}
	return p.loop(ctx)
}

func ignoreCanceled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the end is no error
	}
	return err
}

// rules parses the part of the configuration that the rules depend on.
func (c Config) rules() (rules.Config, error) {
	out := rules.Config{MasqueradeEgress: c.MasqueradeEgress, MasqueradeAll: c.MasqueradeAll}
	if c.NodeName == "" {
		return out, errors.New("the proxy needs the name of its node")
	}
	for _, text := range strings.FieldsFunc(c.ClusterCIDR, func(r rune) bool { return r == ',' || r == ' ' }) {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return out, fmt.Errorf("parse cluster CIDR: %w", err)
		}
		out.ClusterCIDRs = append(out.ClusterCIDRs, p.Masked())
	}
	for _, text := range c.NodePortCIDRs {
		if _, err := netip.ParsePrefix(text); err != nil && text != allAddresses && text != primaryAddresses {
			return out, fmt.Errorf("parse node port CIDR: %w", err)
		}
	}
	return out, nil
}

// openWriters opens the families that pods have, IPv4 if nothing is known of them.
func (p *Proxier) openWriters() error {
	families := map[bool]bool{}
	for _, cidr := range p.rulesConfig.ClusterCIDRs {
		families[cidr.Addr().Is6()] = true
	}
	if len(families) == 0 {
		families[false] = true
	}
	for v6 := range families {
		w, err := nftables.New(v6, p.rulesConfig)
		if err != nil {
			return err
		}
		p.writers = append(p.writers, w)
	}
	return nil
}

// mark makes a Service be written again.
func (p *Proxier) mark(names ...types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		p.dirty[name] = true
	}
	lastQueued.Set(float64(p.clock.Now().UnixNano()) / 1e9)
	p.signal()
}

// markSlice makes the Service of an EndpointSlice be written again, and remembers since when that is due. What happened before this
// process looked says nothing of its speed.
func (p *Proxier) markSlice(slice any) {
	endpointChanges.Inc()
	if m, err := meta.Accessor(slice); err == nil {
		if at, err := time.Parse(time.RFC3339Nano, m.GetAnnotations()[corev1.EndpointsLastChangeTriggerTime]); err == nil && at.After(p.started) {
			p.mu.Lock()
			p.triggers = append(p.triggers, at)
			p.mu.Unlock()
		}
	}
	p.mark(serviceOf(slice))
}

func (p *Proxier) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// setNode takes over what the rules need of the node, and marks every Service if that changed.
func (p *Proxier) setNode(node *corev1.Node) {
	p.health.setNode(node)
	p.policies.setNode(node)
	n := rules.Node{Name: node.Name, Zone: node.Labels[corev1.LabelTopologyZone], Addrs: nodeAddrs(node, p.cfg.NodePortCIDRs)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if fmt.Sprint(n) == fmt.Sprint(p.node) {
		return
	}
	p.node = n
	for _, obj := range p.allServices() {
		p.dirty[types.NamespacedName{Namespace: obj.Namespace, Name: obj.Name}] = true
	}
	p.signal()
}

// loop writes until ctx ends. The first transaction holds everything that is known after the caches are filled.
func (p *Proxier) loop(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	retry := p.clock.NewTimer(0) // also makes the first write happen when there is nothing to write
	defer retry.Stop()
	p.flowTimer = p.clock.NewTimer(p.flows.Patience)
	defer p.flowTimer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.policies.wake:
			p.policies.sync(ctx, retryAfter)
			continue
		case <-p.flowTimer.C():
			p.cleanFlows(ctx)
			continue
		case <-p.wake:
		case <-retry.C():
		}
		if err := p.sync(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			logger.Error(err, "Service rules could not be written, trying again", "after", retryAfter)
			p.health.failed()
			retry.Reset(retryAfter)
		}
	}
}

// sync writes the Services that are dirty.
func (p *Proxier) sync(ctx context.Context) error {
	names, node, triggers := p.takeDirty()
	changed := make([]rules.Service, 0, len(names))
	for name := range names {
		s, err := p.compute(name, node)
		if err != nil {
			p.restore(names)
			return err
		}
		changed = append(changed, s)
	}
	for _, w := range p.writers {
		start := p.clock.Now()
		err := w.Update(ctx, changed...)
		written(string(w.Family()), start, p.clock.Now(), err)
		if err != nil {
			p.restore(names)
			return err
		}
	}
	for _, at := range triggers {
		programmingDuration.Observe(p.clock.Since(at).Seconds())
	}
	if p.announcer != nil { // once the rules are there
		if err := p.announcer.update(names, p.find); err != nil {
			p.restore(names)
			return err
		}
	}
	p.health.synced()
	p.healthChecks.update(ctx, changed)
	p.replace(changed)
	p.cleanFlows(ctx)
	return nil
}

// restore marks Services without waking the loop, which waits before it tries again.
func (p *Proxier) restore(names map[types.NamespacedName]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.Copy(p.dirty, names)
}

func (p *Proxier) takeDirty() (map[types.NamespacedName]bool, rules.Node, []time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	names, triggers := p.dirty, p.triggers
	p.dirty, p.triggers = map[types.NamespacedName]bool{}, nil
	return names, p.node, triggers
}

// compute returns the rules of a Service as the caches have it; none, if it is gone.
func (p *Proxier) compute(name types.NamespacedName, node rules.Node) (rules.Service, error) {
	svc, err := p.services.Services(name.Namespace).Get(name.Name)
	if apierrors.IsNotFound(err) {
		return rules.Service{Name: name}, nil
	}
	if err != nil {
		return rules.Service{}, fmt.Errorf("read service from cache: %w", err)
	}
	objs, err := p.slices.ByIndex(byService, name.String())
	if err != nil {
		return rules.Service{}, fmt.Errorf("read endpoint slices from cache: %w", err)
	}
	endpointSlices := make([]*discoveryv1.EndpointSlice, 0, len(objs))
	for _, obj := range objs {
		endpointSlices = append(endpointSlices, obj.(*discoveryv1.EndpointSlice))
	}
	return rules.ForService(svc, endpointSlices, node, p.rulesConfig), nil
}

// find returns a Service out of the cache, nil if it is not there.
func (p *Proxier) find(name types.NamespacedName) *corev1.Service {
	svc, err := p.services.Services(name.Namespace).Get(name.Name)
	if err != nil {
		return nil
	}
	return svc
}

// replace takes note of what the kernel has now.
func (p *Proxier) replace(changed []rules.Service) {
	for _, s := range changed {
		p.flows.Changed(p.current[s.Name], s)
		if len(s.Entries) == 0 {
			delete(p.current, s.Name)
			continue
		}
		p.current[s.Name] = s
	}
}

// cleanFlows forgets the flows that changes have made wrong.
func (p *Proxier) cleanFlows(ctx context.Context) {
	n, again, err := p.flows.Clean(p.clock.Now())
	if err != nil {
		// The rules are right; a flow that is left over ends by its own timeout.
		klog.FromContext(ctx).Error(err, "Stale flows may remain")
	}
	if n > 0 {
		klog.FromContext(ctx).V(3).Info("Forgot stale flows", "count", n)
	}
	if again {
		p.flowTimer.Reset(p.flows.Patience)
	}
}
