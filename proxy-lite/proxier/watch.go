package proxier

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	// byService indexes EndpointSlices by the Service that they belong to.
	byService = "service"
	// serviceProxyName says that another proxy takes care of a Service.
	serviceProxyName = "service.kubernetes.io/service-proxy-name"
)

// watching are the informers; they are told apart because each has its own selector.
type watching struct {
	factories []informers.SharedInformerFactory
	synced    []cache.InformerSynced
}

func (w *watching) stop() {
	for _, f := range w.factories {
		f.Shutdown()
	}
}

func (w *watching) sync(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), w.synced...) {
		return fmt.Errorf("caches did not sync")
	}
	return nil
}

// watch starts the informers. Their handlers only mark what is dirty.
func (p *Proxier) watch(ctx context.Context, client kubernetes.Interface) (*watching, error) {
	w := &watching{}
	factory := func(tweak func(*metav1.ListOptions)) informers.SharedInformerFactory {
		f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim), informers.WithTweakListOptions(tweak))
		w.factories = append(w.factories, f)
		return f
	}
	ours := factory(func(o *metav1.ListOptions) { o.LabelSelector = "!" + serviceProxyName })
	endpointSlices := factory(func(o *metav1.ListOptions) {
		o.LabelSelector = "!" + serviceProxyName + ",!" + corev1.IsHeadlessService
	}).Discovery().V1().EndpointSlices().Informer()
	nodes := factory(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, p.cfg.NodeName).String()
	}).Core().V1().Nodes().Informer()
	services := ours.Core().V1().Services()

	if err := endpointSlices.AddIndexers(cache.Indexers{byService: func(obj any) ([]string, error) {
		return []string{serviceOf(obj).String()}, nil
	}}); err != nil {
		return nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	p.services, p.slices = services.Lister(), endpointSlices.GetIndexer()
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		handle   func(obj any)
	}{
		{services.Informer(), func(obj any) { serviceChanges.Inc(); p.mark(nameOf(obj)) }},
		{endpointSlices, p.markSlice},
		{nodes, func(obj any) {
			if node, ok := obj.(*corev1.Node); ok {
				p.setNode(node)
			}
		}},
	} {
		reg, err := h.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    h.handle,
			UpdateFunc: func(old, obj any) { updated(old, obj, h.handle) },
			DeleteFunc: func(obj any) {
				if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = tombstone.Obj
				}
				h.handle(obj)
			},
		})
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		w.synced = append(w.synced, reg.HasSynced)
	}
	for _, f := range w.factories {
		f.StartWithContext(ctx)
	}
	return w, nil
}

// updated handles the new object, and the old one too if it is of another Service: a slice can be relabelled.
func updated(old, obj any, handle func(any)) {
	if _, ok := obj.(*discoveryv1.EndpointSlice); ok && serviceOf(old) != serviceOf(obj) {
		handle(old)
	}
	handle(obj)
}

func trim(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

func nameOf(obj any) types.NamespacedName {
	m, err := meta.Accessor(obj)
	if err != nil {
		return types.NamespacedName{}
	}
	return types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}
}

func serviceOf(obj any) types.NamespacedName {
	m, err := meta.Accessor(obj)
	if err != nil {
		return types.NamespacedName{}
	}
	return types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetLabels()[discoveryv1.LabelServiceName]}
}

func (p *Proxier) allServices() []*corev1.Service {
	list, err := p.services.List(labels.Everything())
	if err != nil {
		return nil // a lister on memory does not fail
	}
	return list
}

const allAddresses, primaryAddresses = "all", "primary"

// nodeAddrs are the node's addresses that answer on node ports: its internal ones (or, without any, its external ones), or those
// that the list covers.
func nodeAddrs(node *corev1.Node, cidrs []string) []netip.Addr {
	collect := func(kind corev1.NodeAddressType) []netip.Addr {
		var out []netip.Addr
		for _, a := range node.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == kind && within(addr, kind, cidrs) {
				out = append(out, addr)
			}
		}
		return out
	}
	out := collect(corev1.NodeInternalIP)
	if len(out) == 0 || len(cidrs) > 0 {
		out = append(out, collect(corev1.NodeExternalIP)...)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// within says whether a list of CIDRs and keywords (KubeProxyConfiguration's nodePortAddresses) covers an address; an empty one does.
func within(addr netip.Addr, kind corev1.NodeAddressType, list []string) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(text string) bool {
		p, err := netip.ParsePrefix(text)
		return text == allAddresses || (text == primaryAddresses && kind == corev1.NodeInternalIP) || (err == nil && p.Contains(addr))
	})
}
