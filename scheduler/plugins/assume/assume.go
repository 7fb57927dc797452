// Package assume lets a plugin count on changes that it has decided and the API does not show yet.
package assume

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// Overlay holds objects that the scheduler has decided to change, over a lister that does not show the change yet. An entry counts
// until the lister shows a newer version of the object.
type Overlay[T metav1.Object] struct {
	mu      sync.RWMutex
	assumed map[string]T
}

// NewOverlay returns an empty overlay.
func NewOverlay[T metav1.Object]() *Overlay[T] { return &Overlay[T]{assumed: map[string]T{}} }

func keyOf(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// Set notes the wanted version of an object.
func (o *Overlay[T]) Set(obj T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.assumed[keyOf(obj)] = obj
}

// Drop forgets it.
func (o *Overlay[T]) Drop(obj T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.assumed, keyOf(obj))
}

// Over returns the assumed version of a listed object, if it is still ahead.
func (o *Overlay[T]) Over(listed T) T {
	o.mu.RLock()
	assumed, ok := o.assumed[keyOf(listed)]
	o.mu.RUnlock()
	if !ok {
		return listed
	}
	newer, err := resourceversion.CompareResourceVersion(listed.GetResourceVersion(), assumed.GetResourceVersion())
	if err != nil || newer > 0 || listed.GetUID() != assumed.GetUID() {
		o.Drop(assumed)
		return listed
	}
	return assumed
}
