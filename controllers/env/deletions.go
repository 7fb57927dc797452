package env

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// deletions passes on that objects of any kind are gone. The garbage collector, which follows all kinds anyway, tells of them.
type deletions struct {
	mu    sync.RWMutex
	hears []func(schema.GroupVersionResource, string)
}

// Deletions watches the deletion of objects of all kinds: hear gets the kind and the namespace.
func (e *Env) Deletions(hear func(resource schema.GroupVersionResource, namespace string, queue Queue)) Watch {
	return Raw(source.Func(func(_ context.Context, queue Queue) error {
		e.deletions.mu.Lock()
		defer e.deletions.mu.Unlock()
		e.deletions.hears = append(e.deletions.hears, func(resource schema.GroupVersionResource, namespace string) { hear(resource, namespace, queue) })
		return nil
	}))
}

// Deleted tells those who watch Deletions.
func (e *Env) Deleted(resource schema.GroupVersionResource, namespace string) {
	e.deletions.mu.RLock()
	defer e.deletions.mu.RUnlock()
	for _, hear := range e.deletions.hears {
		hear(resource, namespace)
	}
}
