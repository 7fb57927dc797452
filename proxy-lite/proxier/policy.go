package proxier

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"keelson.dev/proxy-lite/nftables"
	"keelson.dev/proxy-lite/policy"
)

// policer keeps the kernel's network policies up to date. Pods and namespaces are watched only once there is a policy: a cluster
// without any does not pay for them.
type policer struct {
	node string
	wake chan struct{}

	mu       sync.Mutex
	podCIDRs []netip.Prefix
	writers  []*nftables.PolicyWriter
	// waiting is set while the kernel has refused the rules and a retry is due.
	waiting *time.Timer

	policies informers.SharedInformerFactory
	pods     informers.SharedInformerFactory
	watching bool // pods and namespaces too
}

func newPolicer(node string) *policer { return &policer{node: node, wake: make(chan struct{}, 1)} }

// start watches the policies; stop waits until the informers have ended.
func (p *policer) start(ctx context.Context, client kubernetes.Interface) (stop func(), err error) {
	p.policies = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))
	p.pods = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trimPod))
	_, err = p.policies.Networking().V1().NetworkPolicies().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { p.watchPods(ctx); p.signal() }, UpdateFunc: func(any, any) { p.signal() }, DeleteFunc: func(any) { p.signal() },
	})
	if err != nil {
		return nil, fmt.Errorf("watch network policies: %w", err)
	}
	p.policies.StartWithContext(ctx)
	p.signal()
	return func() { p.policies.Shutdown(); p.pods.Shutdown() }, nil
}

// watchPods starts to watch what the selectors of policies select, once.
func (p *policer) watchPods(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watching {
		return
	}
	p.watching = true
	signal := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { p.signal() }, DeleteFunc: func(any) { p.signal() },
		UpdateFunc: func(old, obj any) {
			if concerns(old, obj) {
				p.signal()
			}
		},
	}
	for _, informer := range []cache.SharedIndexInformer{p.pods.Core().V1().Pods().Informer(), p.pods.Core().V1().Namespaces().Informer()} {
		if _, err := informer.AddEventHandler(signal); err != nil {
			klog.FromContext(ctx).Error(err, "Network policies are not followed")
		}
	}
	p.pods.StartWithContext(ctx)
}

// concerns says whether an update changes what policies depend on; most updates of pods do not.
func concerns(old, obj any) bool {
	switch b := obj.(type) {
	case *corev1.Pod:
		a := old.(*corev1.Pod)
		return a.UID != b.UID || a.Status.Phase != b.Status.Phase || a.Spec.NodeName != b.Spec.NodeName ||
			!maps.Equal(a.Labels, b.Labels) || !slices.Equal(a.Status.PodIPs, b.Status.PodIPs)
	case *corev1.Namespace:
		return !maps.Equal(old.(*corev1.Namespace).Labels, b.Labels)
	}
	return true
}

// trimPod keeps what policies need of a pod.
func trimPod(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return trim(obj)
	}
	out := &corev1.Pod{ObjectMeta: pod.ObjectMeta}
	out.ManagedFields, out.Annotations = nil, nil
	out.Spec.NodeName, out.Spec.HostNetwork = pod.Spec.NodeName, pod.Spec.HostNetwork
	out.Status.Phase, out.Status.PodIPs = pod.Status.Phase, pod.Status.PodIPs
	for _, c := range pod.Spec.Containers {
		out.Spec.Containers = append(out.Spec.Containers, corev1.Container{Name: c.Name, Ports: c.Ports})
	}
	return out, nil
}

func (p *policer) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// setNode takes over the node's pod CIDRs, within which unknown addresses are held back.
func (p *policer) setNode(node *corev1.Node) {
	cidrs := node.Spec.PodCIDRs
	if len(cidrs) == 0 && node.Spec.PodCIDR != "" {
		cidrs = []string{node.Spec.PodCIDR}
	}
	var list []netip.Prefix
	for _, text := range cidrs {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			list = append(list, prefix.Masked())
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(list, p.podCIDRs) {
		return
	}
	p.podCIDRs, p.writers = list, nil
	p.signal()
}

// sync writes the policies as the caches have them. It does nothing before they are filled, since rules made of half the pods
// would refuse what is allowed.
func (p *policer) sync(ctx context.Context, retryAfter time.Duration) {
	if err := p.write(ctx); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Network policies could not be written, trying again", "after", retryAfter)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.waiting != nil {
			p.waiting.Stop()
		}
		p.waiting = time.AfterFunc(retryAfter, p.signal)
	}
}

func (p *policer) write(ctx context.Context) error {
	if p.policies == nil || !p.synced() {
		return nil // the last handler of the caches wakes us again
	}
	writers, err := p.open()
	if err != nil {
		return err
	}
	r, err := p.build()
	if err != nil {
		return err
	}
	for _, w := range writers {
		if err := w.Update(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (p *policer) synced() bool {
	p.mu.Lock()
	watching := p.watching
	p.mu.Unlock()
	ok := p.policies.Networking().V1().NetworkPolicies().Informer().HasSynced()
	if watching {
		ok = ok && p.pods.Core().V1().Pods().Informer().HasSynced() && p.pods.Core().V1().Namespaces().Informer().HasSynced()
	}
	if !ok {
		time.AfterFunc(syncCheck, p.signal)
	}
	return ok
}

// syncCheck is how often a start looks whether the caches are filled; there is no event for it that comes after the last object.
const syncCheck = 20 * time.Millisecond

func (p *policer) open() ([]*nftables.PolicyWriter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writers != nil {
		return p.writers, nil
	}
	families := map[bool]bool{false: true}
	for _, c := range p.podCIDRs {
		families[c.Addr().Is6()] = true
	}
	for v6 := range families {
		w, err := nftables.NewPolicy(v6, p.podCIDRs)
		if err != nil {
			return nil, err
		}
		p.writers = append(p.writers, w)
	}
	return p.writers, nil
}

func (p *policer) build() (policy.Rules, error) {
	list, err := p.policies.Networking().V1().NetworkPolicies().Lister().List(labels.Everything())
	if err != nil || len(list) == 0 {
		return policy.Rules{}, err
	}
	pods, err := p.pods.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil {
		return policy.Rules{}, fmt.Errorf("list pods: %w", err)
	}
	namespaces, err := p.pods.Core().V1().Namespaces().Lister().List(labels.Everything())
	if err != nil {
		return policy.Rules{}, fmt.Errorf("list namespaces: %w", err)
	}
	return policy.Build(slices.Clone[[]*networkingv1.NetworkPolicy](list), pods, namespaces, p.node), nil
}
