package registry

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/apis/resource"
)

// Main adds to a store the names of its row and the guard of its kind.
type Main struct {
	*genericregistry.Store
	row   *resource.Resource
	guard func(ctx context.Context, obj, old runtime.Object) error
}

// ShortNames implements rest.ShortNamesProvider.
func (m *Main) ShortNames() []string { return m.row.ShortNames }

// Categories implements rest.CategoriesProvider.
func (m *Main) Categories() []string { return m.row.Categories }

// Create implements rest.Creater.
func (m *Main) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if m.guard != nil {
		if err := m.guard(ctx, obj, nil); err != nil {
			return nil, err
		}
	}
	return m.Store.Create(ctx, obj, validate, options)
}

// Update implements rest.Updater.
func (m *Main) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, allowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
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
