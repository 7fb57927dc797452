// Package registry turns a row of the API table into REST storage: one generic strategy and one generic store serve every kind.
// What is particular to a kind stands in its row; what needs more than values (service addresses, the namespace life cycle,
// connections to kubelets) is hung onto the store by the server.
package registry

import (
	"context"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/apis/resource"
)

// Config is what every store needs.
type Config struct {
	Scheme  *runtime.Scheme
	Options generic.RESTOptionsGetter
	// EventTTL replaces the time to live of kinds whose row sets one.
	EventTTL time.Duration
	// Restrict, if set, refuses what is valid but not allowed on this server; old is nil on create.
	Restrict func(ctx context.Context, obj, old runtime.Object) field.ErrorList
}

// Kind is the storage of one row. The embedded store may be given hooks until Storages is called.
type Kind struct {
	*genericregistry.Store
	Row *resource.Resource
	// Guard, if set, may refuse a write of the main resource by who sends it; old is nil on create.
	Guard func(ctx context.Context, obj, old runtime.Object) error
	// GuardStatus, if set, does so for writes of /status, whose answers are those of validation.
	GuardStatus func(ctx context.Context, obj, old runtime.Object) field.ErrorList

	scheme *runtime.Scheme
	main   *strategy
}

// New builds the store of a row.
func New(row *resource.Resource, config Config) (*Kind, error) {
	main, err := newStrategy(row, config.Scheme)
	if err != nil {
		return nil, err
	}
	if main.restrict = config.Restrict; main.restrict == nil {
		main.restrict = func(context.Context, runtime.Object, runtime.Object) field.ErrorList { return nil }
	}
	newList, err := listFunc(row, config.Scheme)
	if err != nil {
		return nil, err
	}
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return row.New() },
		NewListFunc:               newList,
		DefaultQualifiedResource:  row.GroupResource(),
		SingularQualifiedResource: schema.GroupResource{Group: row.GroupVersion.Group, Resource: row.Singular},
		PredicateFunc:             predicateFunc(row),
		CreateStrategy:            main,
		UpdateStrategy:            main,
		DeleteStrategy:            deleteStrategy(main),
		ResetFieldsStrategy:       main,
		ReturnDeletedObject:       row.ReturnDeleted,
		TableConvertor:            newTable(row),
		TTLFunc:                   ttlFunc(row, config.EventTTL),
	}
	options := &generic.StoreOptions{
		RESTOptions: config.Options,
		AttrFunc:    attrFunc(row),
		TriggerFunc: triggers(row),
		Indexers:    indexers(row),
	}
	if err := store.CompleteWithOptions(options); err != nil {
		return nil, fmt.Errorf("store of %s: %w", row.GroupResource(), err)
	}
	return &Kind{Store: store, Row: row, scheme: config.Scheme, main: main}, nil
}

// Storages returns what is served of the kind in one version: the resource itself, /status and /scale.
func (k *Kind) Storages() map[string]rest.Storage {
	storages := map[string]rest.Storage{k.Row.Plural: k.Main()}
	if k.Row.HasStatus {
		storages[k.Row.Plural+"/status"] = k.Status()
	}
	if k.Row.Scale != nil {
		storages[k.Row.Plural+"/scale"] = newScale(k)
	}
	return storages
}

// Main is the storage of the resource itself with the names that discovery publishes.
func (k *Kind) Main() *Main {
	main := &Main{Store: k.Store, row: k.Row, guard: k.Guard}
	if k.Row.GroupResource() == corev1.Resource("pods") {
		main.pods = newPodEncoder(k.scheme)
	}
	return main
}

func listFunc(row *resource.Resource, scheme *runtime.Scheme) (func() runtime.Object, error) {
	list, err := scheme.New(row.GroupVersion.WithKind(row.Kind + "List"))
	if err != nil {
		return nil, fmt.Errorf("list type of %s: %w", row.Kind, err)
	}
	elem := reflect.TypeOf(list).Elem()
	return func() runtime.Object { return reflect.New(elem).Interface().(runtime.Object) }, nil
}

// indexOf is the field that the watch cache dispatches events by: the row's, else the name, since watches of single objects (a
// kubelet's secrets) are the most numerous ones.
func indexOf(row *resource.Resource) (string, func(resource.Object) string) {
	if get, ok := row.Fields[row.Index]; ok {
		return row.Index, get
	}
	return "metadata.name", func(obj resource.Object) string { return obj.GetName() }
}

func triggers(row *resource.Resource) storage.IndexerFuncs {
	name, get := indexOf(row)
	return storage.IndexerFuncs{name: func(obj runtime.Object) string { return get(obj.(resource.Object)) }}
}

func indexers(row *resource.Resource) *cache.Indexers {
	get, ok := row.Fields[row.Index]
	if !ok {
		return nil
	}
	return &cache.Indexers{storage.FieldIndex(row.Index): func(obj any) ([]string, error) {
		typed, ok := obj.(resource.Object)
		if !ok {
			return nil, fmt.Errorf("index %s: %T is no API object", row.Index, obj)
		}
		return []string{get(typed)}, nil
	}}
}

func predicateFunc(row *resource.Resource) func(labels.Selector, fields.Selector) storage.SelectionPredicate {
	attrs := attrFunc(row)
	index, _ := indexOf(row)
	return func(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
		return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: attrs, IndexFields: []string{index}}
	}
}

// attrFunc returns what selectors see of an object.
func attrFunc(row *resource.Resource) storage.AttrFunc {
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		typed, ok := obj.(resource.Object)
		if !ok {
			return nil, nil, fmt.Errorf("attributes of %s: %T is no API object", row.Plural, obj)
		}
		set := make(fields.Set, len(row.Fields)+2)
		set["metadata.name"] = typed.GetName()
		if row.Namespaced {
			set["metadata.namespace"] = typed.GetNamespace()
		}
		for name, get := range row.Fields {
			set[name] = get(typed)
		}
		return typed.GetLabels(), set, nil
	}
}

func ttlFunc(row *resource.Resource, override time.Duration) func(runtime.Object, uint64, bool) (uint64, error) {
	if row.TTL == nil {
		return nil
	}
	return func(obj runtime.Object, _ uint64, _ bool) (uint64, error) {
		ttl := override
		if ttl == 0 {
			ttl = row.TTL(obj.(resource.Object))
		}
		return uint64(ttl / time.Second), nil
	}
}

// deleteStrategy hides what the row does not have: the library asks for graceful deletion and orphaning by type assertion.
func deleteStrategy(s *strategy) rest.RESTDeleteStrategy {
	switch {
	case s.row.Grace != nil:
		return graceful{s}
	case s.row.OrphanDependents || s.row.TTL != nil:
		return collected{s}
	}
	return plainDelete{s.ObjectTyper}
}

type plainDelete struct{ runtime.ObjectTyper }

type collected struct{ *strategy }

// DefaultGarbageCollectionPolicy implements rest.GarbageCollectionDeleteStrategy.
func (c collected) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	if c.row.TTL != nil {
		return rest.Unsupported
	}
	return rest.OrphanDependents
}

type graceful struct{ *strategy }

// CheckGracefulDelete implements rest.RESTGracefulDeleteStrategy.
func (g graceful) CheckGracefulDelete(_ context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	return options != nil && g.row.Grace(obj.(resource.Object), options)
}
