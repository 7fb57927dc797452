// Package podnetwork gives a node's pods their addresses and every other node's pods a way: it writes the node's CNI
// configuration from its pod CIDR, and keeps one route per peer node: by the peer itself where the two share a link, else through
// VXLAN. All follows Node objects by watch.
package podnetwork

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"k8s.io/apimachinery/pkg/labels"

	"keelson.dev/internal/apiclient"
)

// Config is where this node's pod network is described.
type Config struct {
	RESTConfig *rest.Config
	NodeName   string
	ConfDir    string // of CNI configurations
	DataDir    string // where host-local remembers the addresses it gave
	VXLAN      bool   // also to nodes on a link of this node's
}

// Peer is the way to another node's pods.
type Peer struct {
	PodCIDR netip.Prefix
	Gateway netip.Addr // the zero value: there is no way, and who tries is told so at once
	Tunnel  bool       // the gateway is the other end of a tunnel
}

// hollowLabel marks nodes that only pretend: their addresses must not be looked for on any network.
const hollowLabel = "keelson.dev/hollow"

// Network is what the Node objects ask of this node: a comparable value once sorted.
type Network struct {
	PodCIDRs  []netip.Prefix // of this node
	Addresses []netip.Addr   // of this node
	Peers     []Peer
}

// For derives the network of the named node. Nodes without a pod CIDR or an address are not reachable yet and left out.
func For(name string, nodes []*corev1.Node) Network {
	var network Network
	for _, node := range nodes {
		cidrs := podCIDRs(node)
		if node.Name == name {
			network.PodCIDRs, network.Addresses = cidrs, internalIPs(node)
			continue
		}
		if node.Labels[hollowLabel] == "true" {
			network.Peers = append(network.Peers, nowhere(node, cidrs)...)
			continue
		}
		for _, cidr := range cidrs {
			if gateway, ok := internalIP(node, cidr.Addr().Is4()); ok {
				network.Peers = append(network.Peers, Peer{PodCIDR: cidr, Gateway: gateway})
			}
		}
	}
	slices.SortFunc(network.Peers, func(a, b Peer) int {
		return cmp.Or(a.PodCIDR.Addr().Compare(b.PodCIDR.Addr()), a.Gateway.Compare(b.Gateway))
	})
	return network
}

// nowhere are peers without a way: a hollow node's pods and itself.
func nowhere(node *corev1.Node, cidrs []netip.Prefix) []Peer {
	var out []Peer
	for _, cidr := range cidrs {
		out = append(out, Peer{PodCIDR: cidr})
	}
	for _, ip := range internalIPs(node) {
		out = append(out, Peer{PodCIDR: netip.PrefixFrom(ip, ip.BitLen())})
	}
	return out
}

// internalIPs are the node's first addresses of both families.
func internalIPs(node *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, v4 := range []bool{true, false} {
		if ip, ok := internalIP(node, v4); ok {
			out = append(out, ip)
		}
	}
	return out
}

func podCIDRs(node *corev1.Node) []netip.Prefix {
	all := node.Spec.PodCIDRs
	if len(all) == 0 && node.Spec.PodCIDR != "" {
		all = []string{node.Spec.PodCIDR}
	}
	var parsed []netip.Prefix
	for _, text := range all {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			parsed = append(parsed, prefix)
		}
	}
	return parsed
}

func internalIP(node *corev1.Node, v4 bool) (netip.Addr, bool) {
	for _, address := range node.Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(address.Address); err == nil && ip.Is4() == v4 {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// Run keeps the node's pod network as the Node objects say until ctx ends.
func Run(ctx context.Context, config Config) error {
	client, err := apiclient.Clientset(apiclient.Config(config.RESTConfig, "pod-network"))
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(keepWhatMatters))
	nodes := factory.Core().V1().Nodes()
	// One key: whatever changes, the whole network is derived again, and a burst of changes is one derivation.
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[struct{}]())
	changed := func(any) { queue.Add(struct{}{}) }
	registration, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, now any) { changed(now) }, DeleteFunc: changed,
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		return nil
	}
	context.AfterFunc(ctx, queue.ShutDown)
	syncer := &syncer{config: config, nodes: nodes.Lister()}
	for {
		key, stop := queue.Get()
		if stop {
			return nil
		}
		if err := syncer.sync(); err != nil {
			klog.FromContext(ctx).Error(err, "Pod network is not as the nodes say; trying again")
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

type syncer struct {
	config  Config
	nodes   corelisters.NodeLister
	written []byte // the CNI configuration as it was last written
}

func (s *syncer) sync() error {
	nodes, err := s.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	network := For(s.config.NodeName, nodes)
	for i, peer := range network.Peers {
		network.Peers[i].Tunnel = peer.Gateway.IsValid() && (s.config.VXLAN || !sharesLink(peer.Gateway))
	}
	devices := map[int]int{}
	var errs []error
	for _, t := range tunnels {
		if len(t.peers(network)) > 0 {
			devices[t.family], err = t.open(network)
			errs = append(errs, err)
		}
	}
	errs = append(errs, syncRoutes(routes(network, devices)))
	for _, t := range tunnels {
		if len(t.peers(network)) == 0 { // and no route needs it any more
			errs = append(errs, t.close())
		}
	}
	return errors.Join(append(errs, s.writeCNI(network))...)
}

// keepWhatMatters drops what a route does not depend on: on thousands of nodes the images and conditions are most of the memory.
func keepWhatMatters(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	labels := map[string]string{}
	if value, ok := node.Labels[hollowLabel]; ok {
		labels[hollowLabel] = value
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, Labels: labels},
		Spec:       corev1.NodeSpec{PodCIDR: node.Spec.PodCIDR, PodCIDRs: node.Spec.PodCIDRs},
		Status:     corev1.NodeStatus{Addresses: node.Status.Addresses},
	}, nil
}
