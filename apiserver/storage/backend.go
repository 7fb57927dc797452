package storage

import (
	"fmt"
	"slices"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	etcdkubernetes "go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// Backend lets all stores of this process talk to the embedded member by function calls. The library would open a connection for every
// kind, to the very process it runs in.
type Backend struct {
	member  *Member
	servers []string // what storage configurations name; others are left to the library

	kv        clientv3.KV
	compactor etcd3.Compactor
	close     []func()
}

// NewBackend wraps a running member.
func NewBackend(m *Member, config storagebackend.Config) *Backend {
	plain := v3client.New(m.etcd.Server)
	b := &Backend{servers: config.Transport.ServerList, member: m, kv: etcd3.NewETCDLatencyTracker(plain.KV)}
	b.close = append(b.close, func() { _ = plain.Close() }) // it holds no connection that could fail to close
	// The check asks every endpoint of the client for its version, and this client has none.
	feature.DefaultFeatureSupportChecker.CheckClient(plain.Ctx(), versioned{plain}, storage.RequestWatchProgress)
	if config.CompactionInterval > 0 {
		compactor := etcd3.NewCompactor(plain, config.CompactionInterval, clock.RealClock{}, func() {})
		b.compactor = compactor
		b.close = append(b.close, compactor.Stop)
	}
	return b
}

// versioned gives the in-process client a name for its only endpoint.
type versioned struct{ *clientv3.Client }

// Endpoints names the member in this process; clientv3 asks it whatever the name.
func (versioned) Endpoints() []string { return []string{"embedded"} }

// Close ends the client. The stores must have been destroyed.
func (b *Backend) Close() {
	if b == nil {
		return
	}
	for _, f := range slices.Backward(b.close) {
		f()
	}
}

// Getter returns the options of delegate with stores of this backend. A nil backend changes nothing.
func (b *Backend) Getter(delegate generic.RESTOptionsGetter) generic.RESTOptionsGetter {
	if b == nil {
		return delegate
	}
	return getter{b, delegate}
}

type getter struct {
	backend  *Backend
	delegate generic.RESTOptionsGetter
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (g getter) GetRESTOptions(gr schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := g.delegate.GetRESTOptions(gr, example)
	if err != nil || !slices.Equal(options.StorageConfig.Transport.ServerList, g.backend.servers) {
		return options, err
	}
	options.Decorator = g.backend.decorate
	return options, nil
}

// Open opens a store without watch cache.
func (b *Backend) Open(c *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object, prefix string) (storage.Interface, factory.DestroyFunc, error) {
	if b == nil || !slices.Equal(c.Transport.ServerList, b.servers) {
		return generic.NewRawStorage(c, newFunc, newListFunc, prefix)
	}
	transformer := c.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner := storage.APIObjectVersioner{}
	client := b.connect()
	store, err := etcd3.New(client, b.compactor, c.Codec, newFunc, newListFunc, c.Prefix, prefix, c.GroupResource, transformer,
		c.LeaseManagerConfig, etcd3.NewDefaultDecoder(c.Codec, versioner), versioner)
	if err != nil {
		_ = client.Close() // it holds no connection that could fail to close
		return nil, nil, fmt.Errorf("open the store of %s: %w", c.GroupResource, err)
	}
	return store, sync.OnceFunc(func() {
		store.Close()
		_ = client.Close()
	}), nil
}

// connect returns the client of one store. All share one way to read and write, and each has a stream of its own for its watches: in a
// shared one every event waits for those of all other kinds, and its cache falls behind twice as far.
func (b *Backend) connect() *etcdkubernetes.Client {
	own := v3client.New(b.member.etcd.Server)
	own.KV = b.kv
	client := &etcdkubernetes.Client{Client: own}
	client.Kubernetes = client
	return client
}

// decorate is the generic.StorageDecorator that opens a store and puts the watch cache before it.
func (b *Backend) decorate(c *storagebackend.ConfigForResource, prefix string, keyFunc func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	store, destroy, err := b.Open(c, newFunc, newListFunc, prefix)
	if err != nil {
		return nil, nil, err
	}
	cached, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage: store, Versioner: storage.APIObjectVersioner{}, GroupResource: c.GroupResource,
		EventsHistoryWindow: c.EventsHistoryWindow, ResourcePrefix: prefix, KeyFunc: keyFunc,
		NewFunc: newFunc, NewListFunc: newListFunc, GetAttrsFunc: attrs, IndexerFuncs: triggers, Indexers: indexers, Codec: c.Codec,
	})
	if err != nil {
		destroy()
		return nil, nil, fmt.Errorf("cache %s: %w", c.GroupResource, err)
	}
	delegator := cacher.NewCacheDelegator(cached, store)
	return delegator, sync.OnceFunc(func() {
		delegator.Stop()
		cached.Stop()
		destroy()
	}), nil
}
