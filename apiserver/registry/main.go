package registry

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"keelson.dev/apis/resource"
	"keelson.dev/internal/stack"
)

// Main adds to a store the names of its row and the guard of its kind.
type Main struct {
	*genericregistry.Store
	row   *resource.Resource
	guard func(ctx context.Context, obj, old runtime.Object) error
	pods  *podEncoder // nil for all kinds but pods
}

// ShortNames implements rest.ShortNamesProvider.
func (m *Main) ShortNames() []string { return m.row.ShortNames }

// Categories implements rest.CategoriesProvider.
func (m *Main) Categories() []string { return m.row.Categories }

// List implements rest.Lister.
func (m *Main) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	list, err := m.Store.List(ctx, options)
	if pods, ok := list.(*corev1.PodList); ok && m.pods != nil && err == nil {
		return &podList{pods, m.pods}, nil
	}
	return list, err
}

// Create implements rest.Creater.
func (m *Main) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if m.guard != nil {
		if err := m.guard(ctx, obj, nil); err != nil {
			return nil, err
		}
	}
	return m.Store.Create(ctx, obj, validate, options)
}

// Delete implements rest.GracefulDeleter.
func (m *Main) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	m.warnOrphans(ctx, options)
	return m.Store.Delete(ctx, name, validate, options)
}

// DeleteCollection implements rest.CollectionDeleter.
func (m *Main) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions, list *internalversion.ListOptions) (runtime.Object, error) {
	m.warnOrphans(ctx, options)
	return m.Store.DeleteCollection(ctx, validate, options, list)
}

// warnOrphans tells a client that dependents stay because it said nothing about them.
func (m *Main) warnOrphans(ctx context.Context, options *metav1.DeleteOptions) {
	if m.row.OrphanWarning == "" || options == nil {
		return
	}
	//nolint:staticcheck // the deprecated field still counts as having said something
	if options.PropagationPolicy == nil && options.OrphanDependents == nil {
		warning.AddWarning(ctx, "", m.row.OrphanWarning)
	}
}

// Update implements rest.Updater. For each update and patch the library starts a goroutine, which comes here first.
func (m *Main) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, allowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	stack.Room16K(len(name))
	if m.guard != nil {
		info = rest.WrapUpdatedObjectInfo(info, func(ctx context.Context, obj, old runtime.Object) (runtime.Object, error) {
			if accessor, err := meta.Accessor(old); err != nil || accessor.GetResourceVersion() == "" {
				old = nil // the library shows an empty object where there is none yet
			}
			return obj, m.guard(ctx, obj, old)
		})
	}
	return m.Store.Update(ctx, name, info, create, update, allowCreate, options)
}
