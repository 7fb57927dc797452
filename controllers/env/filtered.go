package env

import (
	"context"
	"fmt"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/internal/lister"
)

// Filtered is a cache of a few objects of a kind, beside the shared one: for kinds that are too many, or too secret, to keep whole.
type Filtered[T client.Object] struct {
	lister.Of[T]
	hub *hub
}

// Filter starts a cache of those objects of obj's type that by's selectors name. A namespace is selected by the field
// metadata.namespace: by.Namespaces would make several informers.
func Filter[T client.Object](e *Env, obj T, by cache.ByObject) (Filtered[T], error) {
	var none Filtered[T]
	c, err := cache.New(e.Manager.GetConfig(), cache.Options{
		HTTPClient: e.Manager.GetHTTPClient(), Scheme: e.Manager.GetScheme(), Mapper: e.Manager.GetRESTMapper(),
		DefaultTransform: cache.TransformStripManagedFields(), DefaultUnsafeDisableDeepCopy: new(true),
		ByObject: map[client.Object]cache.ByObject{obj: by},
	})
	if err != nil {
		return none, fmt.Errorf("filtered cache of %T: %w", obj, err)
	}
	found, err := c.GetInformer(context.Background(), obj, cache.BlockUntilSynced(false))
	if err != nil {
		return none, fmt.Errorf("filtered informer of %T: %w", obj, err)
	}
	informer, ok := found.(toolscache.SharedIndexInformer)
	if !ok {
		return none, fmt.Errorf("filtered informer of %T is a %T without a store", obj, found)
	}
	h, err := newHub(informer)
	if err != nil {
		return none, err
	}
	if err := e.Manager.Add(c); err != nil {
		return none, fmt.Errorf("run filtered cache of %T: %w", obj, err)
	}
	return Filtered[T]{Of: lister.Of[T]{Indexer: informer.GetIndexer()}, hub: h}, nil
}

// Watch has a watch of the kind look at the filtered objects only.
func (f Filtered[T]) Watch(w Watch) Watch {
	w.hub = f.hub
	return w
}
