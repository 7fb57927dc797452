// Package lister reads objects out of a shared informer's store without copying them. What it returns is shared by all controllers
// of the process: DeepCopy before you change anything.
package lister

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
)

// Names of the indexes that a store may carry besides the one by namespace.
const (
	// ByController finds objects by ControllerKey: all that one owner controls, or the orphans of a namespace.
	ByController = "controller"
	// ByNode finds pods by spec.nodeName; pods without a node stand under "".
	ByNode = "node"
	// ByService finds EndpointSlices by namespace/name of the Service that their label names.
	ByService = "service"
)

// Of reads objects of one type, for example Of[*corev1.Pod].
type Of[T metav1.Object] struct {
	toolscache.Indexer
}

// Find returns the object or false if the store has none of that name.
func (l Of[T]) Find(namespace, name string) (T, bool) {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	item, exists, err := l.GetByKey(key)
	if err != nil || !exists {
		var none T
		return none, false
	}
	return item.(T), true
}

// All returns every object of the store.
func (l Of[T]) All() []T { return typed[T](l.List()) }

// In returns the objects of a namespace.
func (l Of[T]) In(namespace string) []T { return l.Index(toolscache.NamespaceIndex, namespace) }

// Index returns the objects that stand under a value of an index.
func (l Of[T]) Index(name, value string) []T {
	items, err := l.ByIndex(name, value)
	if err != nil {
		// The only error is an index that was never added: a mistake in the code, not in the data.
		panic(err)
	}
	return typed[T](items)
}

// Controlled returns the objects that an owner controls, whatever their labels are.
func (l Of[T]) Controlled(namespace string, owner types.UID) []T {
	return l.Index(ByController, ControllerKey(namespace, owner))
}

// Orphans returns the objects of a namespace without a controller.
func (l Of[T]) Orphans(namespace string) []T {
	return l.Index(ByController, ControllerKey(namespace, ""))
}

// ControllerKey is the value of the index ByController.
func ControllerKey(namespace string, owner types.UID) string { return namespace + "/" + string(owner) }

// IndexController is the function of the index ByController.
func IndexController(obj any) ([]string, error) {
	meta, ok := obj.(metav1.Object)
	if !ok {
		return nil, nil
	}
	var owner types.UID
	if ref := metav1.GetControllerOfNoCopy(meta); ref != nil {
		owner = ref.UID
	}
	return []string{ControllerKey(meta.GetNamespace(), owner)}, nil
}

func typed[T any](items []any) []T {
	out := make([]T, 0, len(items))
	for _, item := range items {
		out = append(out, item.(T))
	}
	return out
}
