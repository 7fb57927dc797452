package env

import (
	"context"
	"fmt"
	"sync"

	toolscache "k8s.io/client-go/tools/cache"
)

// hub passes the events of one kind on to all its watches, one after the other: all that they do is put names on queues. A listener of
// the informer's for each watch would cost a buffer of 16 KB and two goroutines, and wake both for every event.
type hub struct {
	store    toolscache.Store
	synced   toolscache.InformerSynced
	mu       sync.Mutex
	watchers []watcher
}

// watcher hears the events of one kind.
type watcher struct {
	created, deleted func(obj any)
	updated          func(before, after any)
}

func newHub(informer toolscache.SharedIndexInformer) (*hub, error) {
	h := &hub{store: informer.GetStore()}
	registration, err := informer.AddEventHandler(h)
	if err != nil {
		return nil, fmt.Errorf("hear the informer: %w", err)
	}
	h.synced = registration.HasSynced
	return h, nil
}

func (h *hub) tell(event func(watcher)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.watchers {
		event(w)
	}
}

func (h *hub) OnAdd(obj any, _ bool) { h.tell(func(w watcher) { w.created(obj) }) }

func (h *hub) OnUpdate(before, after any) { h.tell(func(w watcher) { w.updated(before, after) }) }

func (h *hub) OnDelete(obj any) {
	if tombstone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	h.tell(func(w watcher) { w.deleted(obj) })
}

// join adds a watcher and tells it what there is already. Events that the informer has still to pass on may tell it once more.
func (h *hub) join(w watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, obj := range h.store.List() {
		w.created(obj)
	}
	h.watchers = append(h.watchers, w)
}

// feed is the source of one watch at a hub.
type feed struct {
	hub   *hub
	watch func(Queue) watcher
}

// Start joins the hub.
func (f feed) Start(_ context.Context, queue Queue) error {
	f.hub.join(f.watch(queue))
	return nil
}

// WaitForSync waits until the watch has heard of all objects that there were at the start.
func (f feed) WaitForSync(ctx context.Context) error {
	if !toolscache.WaitForCacheSync(ctx.Done(), f.hub.synced) {
		return context.Cause(ctx)
	}
	return nil
}
