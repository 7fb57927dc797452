package volumebinding

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// overlay holds objects that the scheduler has decided to change, over a lister that does not show the change yet. An entry counts
// until the lister shows a newer version of the object.
type overlay[T metav1.Object] struct {
	mu      sync.RWMutex
	assumed map[string]T
}

func newOverlay[T metav1.Object]() *overlay[T] { return &overlay[T]{assumed: map[string]T{}} }

func keyOf(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

func (o *overlay[T]) set(obj T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.assumed[keyOf(obj)] = obj
}

func (o *overlay[T]) drop(obj T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.assumed, keyOf(obj))
}

// over returns the assumed version of a listed object, if it is still ahead.
func (o *overlay[T]) over(listed T) T {
	o.mu.RLock()
	assumed, ok := o.assumed[keyOf(listed)]
	o.mu.RUnlock()
	if !ok {
		return listed
	}
	newer, err := resourceversion.CompareResourceVersion(listed.GetResourceVersion(), assumed.GetResourceVersion())
	if err != nil || newer > 0 || listed.GetUID() != assumed.GetUID() {
		o.drop(assumed)
		return listed
	}
	return assumed
}

// signal wakes everyone who waits for a change.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func newSignal() *signal { return &signal{ch: make(chan struct{})} }

// next returns a channel that is closed by the next change. Take it before looking at what may change.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}

func (s *signal) raise() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.ch)
	s.ch = make(chan struct{})
}
