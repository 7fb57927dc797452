package env

import (
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// Watch says which objects wake a controller, and for whom.
type Watch struct {
	object client.Object
	hub    *hub // none: that of the shared cache
	heard  func(Queue) watcher
	source source.Source // instead of all that
}

// Queue is where a handler puts the names of the objects to reconcile.
type Queue = workqueue.TypedRateLimitingInterface[ctrl.Request]

// Keys maps an object to the names of those that its change concerns.
type Keys[T client.Object] func(obj T) []types.NamespacedName

// Changes are callbacks for the events of one kind; nil callbacks ignore the event.
type Changes[T client.Object] struct {
	Created func(obj T, queue Queue)
	Updated func(before, after T, queue Queue)
	Deleted func(obj T, queue Queue)
}

// On watches a kind with callbacks.
func On[T client.Object](obj T, changes Changes[T]) Watch {
	return Watch{object: obj, heard: func(q Queue) watcher {
		return watcher{
			created: func(o any) {
				if changes.Created != nil {
					changes.Created(o.(T), q)
				}
			},
			updated: func(before, after any) {
				if changes.Updated != nil {
					changes.Updated(before.(T), after.(T), q)
				}
			},
			deleted: func(o any) {
				if changes.Deleted != nil {
					changes.Deleted(o.(T), q)
				}
			},
		}
	}}
}

// Mapped watches a kind and wakes those that keys names, for the old and the new state of an updated object.
func Mapped[T client.Object](obj T, keys Keys[T]) Watch {
	return On(obj, Changes[T]{
		Created: func(o T, q Queue) { Add(q, keys(o)...) },
		Updated: func(before, after T, q Queue) {
			Add(q, keys(before)...)
			Add(q, keys(after)...)
		},
		Deleted: func(o T, q Queue) { Add(q, keys(o)...) },
	})
}

// For watches the controller's own kind.
func For[T client.Object](obj T) Watch {
	return Mapped(obj, func(o T) []types.NamespacedName { return []types.NamespacedName{client.ObjectKeyFromObject(o)} })
}

// Owned watches a kind for the owners of the given kind that control its objects. Objects that changed in nothing but the
// resource version, as in a resync, wake nobody.
func Owned[T client.Object](obj T, owner schema.GroupVersionKind) Watch {
	return Mapped(obj, func(o T) []types.NamespacedName { return ownerKeys(o, owner) })
}

// Claimed is Owned for owners that also adopt: an orphan wakes every owner whose selector may match it when it appears or when
// its labels or owners change.
func Claimed[T client.Object](obj T, owner schema.GroupVersionKind, adopters Keys[T]) Watch {
	keys := func(o T) []types.NamespacedName {
		if metav1.GetControllerOfNoCopy(o) != nil {
			return ownerKeys(o, owner)
		}
		return nil
	}
	return On(obj, Changes[T]{
		Created: func(o T, q Queue) {
			if metav1.GetControllerOfNoCopy(o) == nil && o.GetDeletionTimestamp() == nil {
				Add(q, adopters(o)...)
				return
			}
			Add(q, keys(o)...)
		},
		Updated: func(before, after T, q Queue) {
			Add(q, keys(after)...)
			if !sameController(before, after) {
				Add(q, keys(before)...)
			}
			orphan := metav1.GetControllerOfNoCopy(after) == nil
			if orphan && (!sameController(before, after) || !maps.Equal(before.GetLabels(), after.GetLabels())) {
				Add(q, adopters(after)...)
			}
		},
		Deleted: func(o T, q Queue) { Add(q, keys(o)...) },
	})
}

// Raw watches a source that is no kind of the shared cache, such as a channel.
func Raw(src source.Source) Watch {
	return Watch{source: src}
}

// Add puts keys on a queue.
func Add(queue Queue, keys ...types.NamespacedName) {
	for _, key := range keys {
		queue.Add(ctrl.Request{NamespacedName: key})
	}
}

// Matching returns the keys of those owners whose selector matches a label set. An empty selector matches nothing.
func Matching[T client.Object](owners []T, selector func(T) *metav1.LabelSelector, set map[string]string) []types.NamespacedName {
	var keys []types.NamespacedName
	for _, owner := range owners {
		s, err := metav1.LabelSelectorAsSelector(selector(owner))
		if err != nil || s.Empty() || !s.Matches(labels.Set(set)) {
			continue
		}
		keys = append(keys, client.ObjectKeyFromObject(owner))
	}
	return keys
}

func ownerKeys(obj metav1.Object, owner schema.GroupVersionKind) []types.NamespacedName {
	ref := metav1.GetControllerOfNoCopy(obj)
	if ref == nil || ref.Kind != owner.Kind || groupOf(ref.APIVersion) != owner.Group {
		return nil
	}
	return []types.NamespacedName{{Namespace: obj.GetNamespace(), Name: ref.Name}}
}

func groupOf(apiVersion string) string {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return ""
	}
	return gv.Group
}

func sameController(a, b metav1.Object) bool {
	x, y := metav1.GetControllerOfNoCopy(a), metav1.GetControllerOfNoCopy(b)
	return x == y || x != nil && y != nil && x.UID == y.UID
}
