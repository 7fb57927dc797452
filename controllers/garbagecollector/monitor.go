package garbagecollector

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// ignored are kinds that never own or are owned, and come in large numbers.
var ignored = []schema.GroupResource{{Resource: "events"}, {Group: "events.k8s.io", Resource: "events"}}

// catalogues are the kinds whose objects announce other kinds.
var catalogues = []schema.GroupResource{
	{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}, {Group: "apiregistration.k8s.io", Resource: "apiservices"},
}

const (
	// settle is how long after a change of a catalogue discovery is read: the API server needs a moment to serve a new kind.
	settle = 500 * time.Millisecond
	// reread catches what no catalogue announces: an aggregated server that changed its kinds.
	reread = 5 * time.Minute
	// retryDiscovery is when to read discovery again after it was incomplete.
	retryDiscovery = 10 * time.Second
)

// monitors follow all kinds that discovery names and feed the graph. They keep no objects of their own: where the shared cache has
// an informer it is used, otherwise a reflector of metadata writes straight into the graph.
type monitors struct {
	discovery discovery.DiscoveryInterface
	metadata  metadata.Interface
	shared    map[schema.GroupVersionKind]toolscache.SharedIndexInformer
	graph     *graph
	attend    func([]types.UID)
	created   func(namespace string) // told of every object that comes
	deleted   func(namespace string) // told of every object that goes

	mu      sync.Mutex
	running map[schema.GroupResource]*monitor
	rescan  chan struct{}
}

type monitor struct {
	kind   *kind
	stop   context.CancelFunc
	synced func() bool
}

// run keeps the set of monitors in line with discovery until ctx is done.
func (m *monitors) run(ctx context.Context) {
	for {
		wait := reread
		if err := m.scan(ctx); err != nil {
			klog.FromContext(ctx).V(2).Info("Discovery is incomplete", "err", err)
			wait = retryDiscovery
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-m.rescan:
			timer.Stop()
			if !m.settled(ctx) {
				return
			}
		}
	}
}

// settled waits until catalogues have been quiet for a moment.
func (m *monitors) settled(ctx context.Context) bool {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-m.rescan:
			timer.Reset(settle)
		case <-timer.C:
			return true
		}
	}
}

func (m *monitors) askRescan() {
	select {
	case m.rescan <- struct{}{}:
	default:
	}
}

// scan starts monitors for new kinds and stops those of kinds that are no longer served. Kinds of groups that do not answer stay.
func (m *monitors) scan(ctx context.Context) error {
	lists, err := discovery.ServerPreferredResources(m.discovery)
	var partial *discovery.ErrGroupDiscoveryFailed
	if err != nil && !errors.As(err, &partial) {
		return err
	}
	found := kindsIn(lists)
	m.mu.Lock()
	defer m.mu.Unlock()
	for gr, k := range found {
		if old := m.running[gr]; old != nil && old.kind.resource == k.resource && old.kind.gvk == k.gvk {
			continue
		} else if old != nil {
			old.stop()
		}
		m.running[gr] = m.start(ctx, k)
	}
	for gr, mon := range m.running {
		if found[gr] == nil && !failed(partial, gr.Group) {
			mon.stop()
			delete(m.running, gr)
			m.attend(m.graph.sweep(mon.kind, nil))
		}
	}
	return err
}

func failed(partial *discovery.ErrGroupDiscoveryFailed, group string) bool {
	if partial == nil {
		return false
	}
	for gv := range partial.Groups {
		if gv.Group == group {
			return true
		}
	}
	return false
}

func kindsIn(lists []*metav1.APIResourceList) map[schema.GroupResource]*kind {
	found := map[schema.GroupResource]*kind{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, res := range list.APIResources {
			gr := gv.WithResource(res.Name).GroupResource()
			verbs := []string(res.Verbs)
			if slices.Contains(ignored, gr) || !slices.Contains(verbs, "list") || !slices.Contains(verbs, "watch") || !slices.Contains(verbs, "delete") {
				continue
			}
			found[gr] = &kind{gvk: gv.WithKind(res.Kind), resource: gv.WithResource(res.Name), namespaced: res.Namespaced}
		}
	}
	return found
}

func (m *monitors) start(ctx context.Context, k *kind) *monitor {
	ctx, stop := context.WithCancel(ctx)
	f := &feed{monitors: m, kind: k, announces: slices.Contains(catalogues, k.resource.GroupResource())}
	if informer := m.shared[k.gvk]; informer != nil {
		registration, err := informer.AddEventHandler(f.handler())
		if err == nil {
			return &monitor{kind: k, synced: registration.HasSynced, stop: func() {
				stop()
				_ = informer.RemoveEventHandler(registration) // fails only if the informer has stopped
			}}
		}
	}
	client := m.metadata.Resource(k.resource)
	source := toolscache.ToListWatcherWithWatchListSemantics(&toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, opts)
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, opts)
		},
	}, m.metadata)
	reflector := toolscache.NewReflectorWithOptions(source, &metav1.PartialObjectMetadata{}, f, toolscache.ReflectorOptions{
		Name: "garbagecollector/" + k.resource.Resource, TypeDescription: k.gvk.String(),
	})
	go reflector.RunWithContext(ctx) // one per kind, ended by stop
	return &monitor{kind: k, stop: stop, synced: f.hasSynced}
}

// synced reports whether every monitor has delivered its first list, and which has not.
func (m *monitors) synced() (schema.GroupVersionResource, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.running) == 0 {
		return schema.GroupVersionResource{}, false
	}
	for _, mon := range m.running {
		if !mon.synced() {
			return mon.kind.resource, false
		}
	}
	return schema.GroupVersionResource{}, true
}

// kindOf finds the served kind of an owner reference.
func (m *monitors) kindOf(apiVersion, name string) (*kind, bool) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, mon := range m.running {
		if mon.kind.gvk.Group == gv.Group && mon.kind.gvk.Kind == name {
			return mon.kind, true
		}
	}
	return nil, false
}

// feed is the store of a reflector, and the handler of a shared informer: both end in the graph.
type feed struct {
	monitors  *monitors
	kind      *kind
	announces bool
	mu        sync.Mutex
	listed    bool
}

func (f *feed) seen(obj any) error {
	meta, ok := obj.(metav1.Object)
	if !ok {
		return nil
	}
	if f.announces {
		f.monitors.askRescan()
	}
	f.monitors.attend(f.monitors.graph.observe(f.kind, meta))
	return nil
}

func (f *feed) Add(obj any) error {
	if meta, ok := obj.(metav1.Object); ok {
		f.monitors.created(meta.GetNamespace())
	}
	return f.seen(obj)
}

func (f *feed) Update(obj any) error { return f.seen(obj) }
func (f *feed) Resync() error        { return nil }

func (f *feed) Delete(obj any) error {
	if tombstone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	if meta, ok := obj.(metav1.Object); ok {
		f.monitors.attend(f.monitors.graph.remove(meta.GetUID()))
		f.monitors.deleted(meta.GetNamespace())
	}
	if f.announces {
		f.monitors.askRescan()
	}
	return nil
}

// Replace takes a fresh list: what it does not name is gone.
func (f *feed) Replace(items []any, _ string) error {
	present := make(map[types.UID]bool, len(items))
	for _, item := range items {
		if meta, ok := item.(metav1.Object); ok {
			present[meta.GetUID()] = true
		}
		if err := f.seen(item); err != nil {
			return err
		}
	}
	f.monitors.attend(f.monitors.graph.sweep(f.kind, present))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed = true
	return nil
}

func (f *feed) hasSynced() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.listed
}

func (f *feed) handler() toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { _ = f.Add(obj) },     // never fails
		UpdateFunc: func(_, obj any) { _ = f.seen(obj) }, // never fails
		DeleteFunc: func(obj any) { _ = f.Delete(obj) },  // never fails
	}
}
