// Package hollow runs many nodes in one process that are real to the API and to nobody else: each has the status, the heartbeat and
// the pod workers of kubelet-lite, over a runtime that only pretends. They share one connection, one watch of pods and one of nodes, so
// that thousands fit on a machine.
//
// What a hollow node does not do: no volumes, probes, hooks or logs; its pods have addresses at which nobody answers. An end of the
// process is a power cut of all its nodes, and its next start their reboot.
package hollow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/internal/apiclient"
	"keelson.dev/kubelet-lite/statusmanager"
)

const component = "hollow"

// Labels of every hollow node: users see what they are, and which process runs them.
const (
	Label      = "keelson.dev/hollow"
	FleetLabel = "keelson.dev/hollow-fleet"
)

// checkPeriod is how often a hollow node looks at its own status: nothing changes there but the list of images.
const checkPeriod = time.Minute

// Config of a fleet: the hollow nodes of one process.
type Config struct {
	RESTConfig *rest.Config
	// Impersonate makes each node act as system:node:NAME in system:nodes, for which RESTConfig's user needs the right; so the node
	// authorizer and NodeRestriction hold for it. Otherwise all nodes act as RESTConfig's user.
	Impersonate bool

	Fleet    string // names the nodes: FLEET-0001 and on
	Nodes    int
	Zones    int // that the nodes are spread over: zone-1 and on; 0: no zone labels
	Labels   map[string]string
	Taints   []corev1.Taint
	Capacity corev1.ResourceList // also allocatable
	// NodeCIDR gives the nodes their addresses, at which nobody answers.
	NodeCIDR netip.Prefix
	// PodCIDR gives each node as many addresses as it may have pods; the zero value leaves that to the cluster's controllers.
	PodCIDR      netip.Prefix
	LeaseSeconds int32 // how long a heartbeat counts; it is sent four times as often
	Events       bool  // whether nodes tell what happens to their pods
	// Ready, if set, is called once all nodes have been seen Ready in the API.
	Ready func()
}

// NewConfig returns nodes of 8 processors and 32 GiB for 110 pods, in upstream's rhythm of heartbeats.
func NewConfig() Config {
	return Config{
		Impersonate: true, Fleet: "hollow", Nodes: 1, Zones: 3, Labels: map[string]string{}, NodeCIDR: netip.MustParsePrefix("198.18.0.0/15"),
		LeaseSeconds: 40, Events: true,
		Capacity: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("32Gi"),
			corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
		},
	}
}

// Capacities reads resources as users write them, such as cpu=8, over those of the configuration.
func (c *Config) Capacities(texts map[string]string) error {
	c.Capacity = maps.Clone(c.Capacity)
	for name, text := range texts {
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return fmt.Errorf("capacity %s=%s: %w", name, text, err)
		}
		c.Capacity[corev1.ResourceName(name)] = q
	}
	return nil
}

// fleet is what the nodes share.
type fleet struct {
	cfg       Config
	client    kubernetes.Interface
	clock     clock.RealClock
	status    *statusmanager.Manager
	broadcast record.EventBroadcaster
	nodes     map[string]*node
}

// Run runs the fleet until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithName(component))
	f, err := build(ctx, cfg)
	if err != nil {
		return err
	}
	defer f.broadcast.Shutdown()
	if cfg.Events {
		f.broadcast.StartRecordingToSink(&eventSink{ctx: ctx, client: f.client})
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { f.status.Run(ctx) })
	for _, n := range f.nodes {
		wg.Go(func() {
			if err := n.status.Run(as(ctx, n.name)); err != nil {
				klog.FromContext(ctx).Error(err, "Hollow node ended", "node", n.name)
			}
		})
	}
	f.watch(ctx)
	for _, n := range f.nodes {
		n.workers.Wait()
	}
	return nil
}

func build(ctx context.Context, cfg Config) (*fleet, error) {
	if cfg.Nodes < 1 {
		return nil, errors.New("a fleet has at least one node")
	}
	config := apiclient.Config(cfg.RESTConfig, component)
	config.Wrap(identities(cfg.Impersonate))
	client, err := apiclient.Clientset(config)
	if err != nil {
		return nil, err
	}
	f := &fleet{cfg: cfg, client: client, status: statusmanager.New(client), broadcast: record.NewBroadcaster(record.WithContext(ctx)), nodes: map[string]*node{}}
	f.status.As = func(ctx context.Context, pod *corev1.Pod) context.Context { return as(ctx, pod.Spec.NodeName) }
	for i := range cfg.Nodes {
		n, err := f.newNode(ctx, i)
		if err != nil {
			return nil, err
		}
		f.nodes[n.name] = n
	}
	return f, nil
}

// Name is that of a fleet's node; the first has index 0.
func Name(fleet string, index int) string { return fmt.Sprintf("%s-%04d", fleet, index+1) }

// part returns the part of a range with that index.
func part(whole netip.Prefix, bits, index int) (netip.Prefix, error) {
	raw, host := whole.Masked().Addr().AsSlice(), whole.Addr().BitLen()-bits
	for i, add := len(raw)-1, uint64(index)<<(host%8); add > 0; i-- {
		at := i - host/8
		if at < 0 {
			return netip.Prefix{}, fmt.Errorf("range %s has no part %d of /%d", whole, index+1, bits)
		}
		add += uint64(raw[at])
		raw[at], add = byte(add), add>>8
	}
	addr, _ := netip.AddrFromSlice(raw)
	if !whole.Contains(addr) {
		return netip.Prefix{}, fmt.Errorf("range %s has no part %d of /%d", whole, index+1, bits)
	}
	return netip.PrefixFrom(addr, bits), nil
}
