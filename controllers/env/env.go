// Package env hands a controller what it works with: the manager, clients, listers over the one shared cache, events and a clock,
// and a short way to say what wakes it.
package env

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/lister"
)

// conflictDelay is how long a controller waits after a write that lost a race. The cache needs about a millisecond to show the
// winner, whose event wakes the controller anyway; the delay only bounds the case that it does not.
const conflictDelay = 20 * time.Millisecond

// Env is what a controller works with. Caches, events and what stands in shared are those of the process; the clients, and Config for
// others, have the controller's own identity.
type Env struct {
	Manager   ctrl.Manager
	Config    *rest.Config
	Client    client.Client // writes, and reads that go to the API server; cached reads go through Lister
	Clientset kubernetes.Interface
	Metadata  metadata.Interface
	Clock     clock.WithTicker
	*shared
}

type shared struct {
	partial   []client.Object // kinds of which the cache holds only some objects
	creations number
	deletions number

	mu      sync.Mutex
	indexed map[reflect.Type]toolscache.SharedIndexInformer
	hubs    map[reflect.Type]*hub
}

// New wraps a manager. partial are the kinds of which its cache holds only some objects.
func New(mgr ctrl.Manager, partial []client.Object) (*Env, error) {
	e := &Env{Manager: mgr, Clock: clock.RealClock{}, shared: &shared{partial: partial, indexed: map[reflect.Type]toolscache.SharedIndexInformer{}, hubs: map[reflect.Type]*hub{}}}
	return e.As(mgr.GetConfig())
}

// As returns an Env that acts by that config.
func (e *Env) As(cfg *rest.Config) (*Env, error) {
	out := *e
	transport, err := apiclient.HTTPClient(cfg)
	if err != nil {
		return nil, err
	}
	if out.Client, err = client.New(cfg, client.Options{HTTPClient: transport, Scheme: e.Manager.GetScheme(), Mapper: e.Manager.GetRESTMapper()}); err != nil {
		return nil, fmt.Errorf("build client: %w", err)
	}
	if out.Clientset, err = apiclient.Clientset(cfg); err != nil {
		return nil, err
	}
	if out.Metadata, err = metadata.NewForConfigAndClient(cfg, transport); err != nil {
		return nil, fmt.Errorf("build metadata client: %w", err)
	}
	out.Config = cfg
	return &out, nil
}

// Informer returns the shared informer of obj's type with its indexes. The first caller starts it.
func (e *Env) Informer(obj client.Object) (toolscache.SharedIndexInformer, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	kind := reflect.TypeOf(obj)
	if informer, ok := e.indexed[kind]; ok {
		return informer, nil
	}
	cached, err := e.Manager.GetCache().GetInformer(context.Background(), obj, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("informer of %T: %w", obj, err)
	}
	informer, ok := cached.(toolscache.SharedIndexInformer)
	if !ok {
		return nil, fmt.Errorf("informer of %T is a %T without a store", obj, cached)
	}
	if err := informer.AddIndexers(indexersOf(obj)); err != nil {
		return nil, fmt.Errorf("index %T: %w", obj, err)
	}
	e.indexed[kind] = informer
	return informer, nil
}

// hub returns the hub of the shared informer of obj's type.
func (e *Env) hub(obj client.Object) (*hub, error) {
	informer, err := e.Informer(obj)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	kind := reflect.TypeOf(obj)
	if e.hubs[kind] == nil {
		if e.hubs[kind], err = newHub(informer); err != nil {
			return nil, err
		}
	}
	return e.hubs[kind], nil
}

// Whole returns the informers that controllers have asked for so far and that hold every object of their kind, by Go type.
func (e *Env) Whole() map[reflect.Type]toolscache.SharedIndexInformer {
	e.mu.Lock()
	defer e.mu.Unlock()
	whole := maps.Clone(e.indexed)
	for _, obj := range e.partial {
		delete(whole, reflect.TypeOf(obj))
	}
	return whole
}

func indexersOf(obj client.Object) toolscache.Indexers {
	indexers := toolscache.Indexers{lister.ByController: lister.IndexController}
	switch obj.(type) {
	case *corev1.Pod:
		indexers[lister.ByNode] = func(obj any) ([]string, error) { return []string{obj.(*corev1.Pod).Spec.NodeName}, nil }
	case *discoveryv1.EndpointSlice:
		indexers[lister.ByService] = func(obj any) ([]string, error) {
			slice := obj.(*discoveryv1.EndpointSlice)
			return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
		}
	}
	return indexers
}

// Lister returns the cached objects of a type.
func Lister[T client.Object](e *Env, obj T) (lister.Of[T], error) {
	informer, err := e.Informer(obj)
	if err != nil {
		return lister.Of[T]{}, err
	}
	return lister.Of[T]{Indexer: informer.GetIndexer()}, nil
}

// Recorder returns a recorder of core/v1 events for a component, as kubectl describe shows them.
func (e *Env) Recorder(component string) record.EventRecorder {
	return e.Manager.GetEventRecorderFor(component) //nolint:staticcheck // users know how core/v1 events count and aggregate
}

// Controller starts workers that run r for every object that one of the watches names.
func (e *Env) Controller(name string, workers int, r reconcile.Func, watches ...Watch) error {
	pace := &pacing{clock: e.Clock, rests: map[ctrl.Request]time.Time{}}
	c, err := controller.New(name, e.Manager, controller.Options{
		MaxConcurrentReconciles: workers,
		Reconciler:              pace.paced(patient(r)),
		NewQueue:                pace.queue,
		SkipNameValidation:      new(true), // one process may run the manager again after it lost its lease
	})
	if err != nil {
		return fmt.Errorf("controller %s: %w", name, err)
	}
	for _, watch := range watches {
		src := watch.source
		if src == nil {
			h := watch.hub
			if h == nil {
				if h, err = e.hub(watch.object); err != nil {
					return err
				}
			}
			src = feed{h, watch.heard}
		}
		if err := c.Watch(src); err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}
	}
	return nil
}

// patient turns lost races into a short wait, and leaves objects alone that go away with their namespace: both are expected, not
// errors.
func patient(r reconcile.Func) reconcile.Func {
	return func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		result, err := r(ctx, req)
		if apierrors.IsConflict(err) {
			klog.FromContext(ctx).V(4).Info("Lost a race, trying again", "err", err)
			return ctrl.Result{RequeueAfter: conflictDelay}, nil
		}
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return ctrl.Result{}, nil
		}
		return result, err
	}
}
