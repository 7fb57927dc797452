package env

import (
	"context"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/source"
)

// number passes on that objects of any kind have come or gone. The garbage collector, which follows all kinds anyway, tells of them.
type number struct {
	mu    sync.RWMutex
	hears []func(namespace string)
}

func (n *number) watch(hear func(namespace string, queue Queue)) Watch {
	return Raw(source.Func(func(_ context.Context, queue Queue) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.hears = append(n.hears, func(namespace string) { hear(namespace, queue) })
		return nil
	}))
}

func (n *number) tell(namespace string) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, hear := range n.hears {
		hear(namespace)
	}
}

// Creations watches for new objects of all kinds: hear gets the namespace.
func (e *Env) Creations(hear func(namespace string, queue Queue)) Watch {
	return e.creations.watch(hear)
}

// Deletions watches the deletion of objects of all kinds: hear gets the namespace.
func (e *Env) Deletions(hear func(namespace string, queue Queue)) Watch {
	return e.deletions.watch(hear)
}

// Created tells those who watch Creations.
func (e *Env) Created(namespace string) { e.creations.tell(namespace) }

// Deleted tells those who watch Deletions.
func (e *Env) Deleted(namespace string) { e.deletions.tell(namespace) }
