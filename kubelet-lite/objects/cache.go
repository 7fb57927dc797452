// Package objects keeps the ConfigMaps and Secrets that this node's pods use, and no others: each is watched by name while at
// least one pod refers to it. The node authorizer allows exactly that.
package objects

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Kind is what a Key names.
type Kind string

// The kinds that are cached.
const (
	ConfigMap Kind = "configmap"
	Secret    Kind = "secret"
)

// Key names one object.
type Key struct {
	Kind Kind
	types.NamespacedName
}

// syncTimeout bounds how long a reader waits for the first answer of a new watch before it falls back to a plain GET.
const syncTimeout = 2 * time.Second

// Cache is safe for concurrent use.
type Cache struct {
	client kubernetes.Interface

	mu        sync.Mutex
	pods      map[types.UID]map[Key]struct{} // what each registered pod refers to
	items     map[Key]*item
	listeners []func(Key)
}

// item is one watched object. Its reflector stops when the last pod lets go of it, or once the object says it is immutable.
type item struct {
	refs   int
	store  *store
	cancel context.CancelFunc
}

// New returns an empty cache. Nothing is fetched before a pod is registered.
func New(client kubernetes.Interface) *Cache {
	return &Cache{client: client, pods: map[types.UID]map[Key]struct{}{}, items: map[Key]*item{}}
}

// OnChange calls f after a watched object was added, changed or deleted. f must return quickly. Call it before the first Register.
func (c *Cache) OnChange(f func(Key)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners = append(c.listeners, f)
}

// Register starts to watch what the pod refers to. To call it again with a changed pod replaces the pod's earlier references.
func (c *Cache) Register(pod *corev1.Pod) {
	want := References(pod)
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range want {
		if _, had := c.pods[pod.UID][key]; !had {
			c.acquire(key)
		}
	}
	for key := range c.pods[pod.UID] {
		if _, keep := want[key]; !keep {
			c.release(key)
		}
	}
	c.pods[pod.UID] = want
}

// Unregister drops the pod's references. It is safe to call for a pod that is not registered.
func (c *Cache) Unregister(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.pods[uid] {
		c.release(key)
	}
	delete(c.pods, uid)
}

func (c *Cache) acquire(key Key) {
	if it := c.items[key]; it != nil {
		it.refs++
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	it := &item{refs: 1, cancel: cancel}
	it.store = newStore(func(immutable bool) {
		if immutable {
			cancel()
		}
		c.notify(key)
	})
	c.items[key] = it
	reflector := cache.NewReflectorWithOptions(c.listWatch(key), key.object(), it.store, cache.ReflectorOptions{Name: "kubelet-lite/" + string(key.Kind)})
	go reflector.RunWithContext(ctx)
}

func (c *Cache) release(key Key) {
	it := c.items[key]
	if it == nil {
		return
	}
	if it.refs--; it.refs == 0 {
		it.cancel()
		delete(c.items, key)
	}
}

func (c *Cache) notify(key Key) {
	c.mu.Lock()
	listeners := c.listeners
	c.mu.Unlock()
	for _, f := range listeners {
		f(key)
	}
}

// ConfigMap returns the watched object, or fetches it if no pod has registered it. A missing one is a NotFound API error.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return get(ctx, c, Key{ConfigMap, types.NamespacedName{Namespace: namespace, Name: name}}, c.client.CoreV1().ConfigMaps(namespace).Get)
}

// Secret is as ConfigMap.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return get(ctx, c, Key{Secret, types.NamespacedName{Namespace: namespace, Name: name}}, c.client.CoreV1().Secrets(namespace).Get)
}

func get[T runtime.Object](ctx context.Context, c *Cache, key Key, fetch func(context.Context, string, metav1.GetOptions) (T, error)) (T, error) {
	c.mu.Lock()
	it := c.items[key]
	c.mu.Unlock()
	if it != nil && it.store.wait(ctx, syncTimeout) {
		if obj, ok := it.store.get().(T); ok {
			return obj, nil
		}
	}
	// Not watched, not answered yet, or unknown to the watch: the watch may merely lag behind a pod that was created right
	// after its ConfigMap, so the API server has the last word.
	obj, err := fetch(ctx, key.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return obj, fmt.Errorf("get %s: %w", key.Kind, err)
	}
	return obj, err
}

func (k Key) object() runtime.Object {
	if k.Kind == Secret {
		return &corev1.Secret{}
	}
	return &corev1.ConfigMap{}
}

func (c *Cache) listWatch(key Key) cache.ListerWatcher {
	byName := fields.OneTermEqualSelector(metav1.ObjectNameField, key.Name).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = byName
			if key.Kind == Secret {
				return c.client.CoreV1().Secrets(key.Namespace).List(ctx, o)
			}
			return c.client.CoreV1().ConfigMaps(key.Namespace).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = byName
			if key.Kind == Secret {
				return c.client.CoreV1().Secrets(key.Namespace).Watch(ctx, o)
			}
			return c.client.CoreV1().ConfigMaps(key.Namespace).Watch(ctx, o)
		},
	}
	return cache.ToListWatcherWithWatchListSemantics(lw, c.client)
}

// store is a cache.ReflectorStore for at most one object.
type store struct {
	changed func(immutable bool)

	mu     sync.Mutex
	obj    runtime.Object
	synced chan struct{}
	once   sync.Once
}

func newStore(changed func(bool)) *store {
	return &store{changed: changed, synced: make(chan struct{})}
}

func (s *store) set(obj any) error {
	o, _ := obj.(runtime.Object)
	s.mu.Lock()
	same := sameVersion(s.obj, o)
	s.obj = o
	s.mu.Unlock()
	s.once.Do(func() { close(s.synced) })
	if !same {
		s.changed(immutable(o))
	}
	return nil
}

func (s *store) get() runtime.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.obj
}

func (s *store) wait(ctx context.Context, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case <-s.synced:
		return true
	case <-ctx.Done():
		return false
	}
}

// Add, Update, Delete, Replace and Resync are what a reflector calls.
func (s *store) Add(obj any) error    { return s.set(obj) }
func (s *store) Update(obj any) error { return s.set(obj) }
func (s *store) Delete(any) error     { return s.set(nil) }
func (s *store) Resync() error        { return nil }
func (s *store) Replace(list []any, _ string) error {
	if len(list) == 0 {
		return s.set(nil)
	}
	return s.set(list[0])
}

func sameVersion(a, b runtime.Object) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	ma, errA := meta.Accessor(a)
	mb, errB := meta.Accessor(b)
	return errA == nil && errB == nil && ma.GetUID() == mb.GetUID() && ma.GetResourceVersion() == mb.GetResourceVersion()
}

func immutable(obj runtime.Object) bool {
	switch o := obj.(type) {
	case *corev1.ConfigMap:
		return o.Immutable != nil && *o.Immutable
	case *corev1.Secret:
		return o.Immutable != nil && *o.Immutable
	}
	return false
}
