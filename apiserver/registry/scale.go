package registry

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/apis/resource"
)

// scale serves /scale: an autoscaling/v1 Scale made of its object and written back into it.
type scale struct {
	kind     *Kind
	mappings managedfields.ResourcePathMappings
}

func newScale(k *Kind) *scale {
	replicas := fieldpath.MakePathOrDie("spec", "replicas")
	mappings := managedfields.ResourcePathMappings{k.Row.GroupVersion.String(): replicas}
	for _, gv := range k.Row.Served {
		mappings[gv.String()] = replicas
	}
	return &scale{kind: k, mappings: mappings}
}

// New implements rest.Storage.
func (s *scale) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy implements rest.Storage; the store belongs to the main resource.
func (s *scale) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (s *scale) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

// Get implements rest.Getter.
func (s *scale) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := s.kind.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return s.of(obj.(resource.Object)), nil
}

// Update implements rest.Updater.
func (s *scale) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	obj, _, err := s.kind.Update(ctx, name, &scaledInfo{info: info, scale: s},
		func(ctx context.Context, obj runtime.Object) error { return create(ctx, s.of(obj.(resource.Object))) },
		func(ctx context.Context, obj, old runtime.Object) error {
			return update(ctx, s.of(obj.(resource.Object)), s.of(old.(resource.Object)))
		}, false, options)
	if err != nil {
		return nil, false, err
	}
	return s.of(obj.(resource.Object)), false, nil
}

// ConvertToTable implements rest.TableConvertor.
func (s *scale) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return scaleTable.ConvertToTable(ctx, obj, options)
}

var scaleTable = &table{
	columns: resource.Columns(
		resource.Column[resource.Object]{Get: func(obj resource.Object) any { return obj.(*autoscalingv1.Scale).Spec.Replicas }},
		resource.Column[resource.Object]{Get: func(obj resource.Object) any { return obj.(*autoscalingv1.Scale).Status.Replicas }},
	),
	definitions: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name"},
		{Name: "Desired", Type: "integer"},
		{Name: "Available", Type: "integer"},
		{Name: "Age", Type: "string"},
	},
}

// of returns the scale of an object.
func (s *scale) of(obj resource.Object) *autoscalingv1.Scale {
	spec, status, selector := s.kind.Row.Scale.Get(obj)
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: spec},
		Status: autoscalingv1.ScaleStatus{Replicas: status, Selector: selector},
	}
}

// scaledInfo turns an update of a Scale into one of its object.
type scaledInfo struct {
	info  rest.UpdatedObjectInfo
	scale *scale
}

// Preconditions implements rest.UpdatedObjectInfo.
func (i *scaledInfo) Preconditions() *metav1.Preconditions { return i.info.Preconditions() }

// UpdatedObject implements rest.UpdatedObjectInfo.
func (i *scaledInfo) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	obj := old.DeepCopyObject().(resource.Object)
	row := i.scale.kind.Row
	if obj.GetResourceVersion() == "" { // the library shows an empty object for one that does not exist
		return nil, apierrors.NewNotFound(row.GroupResource(), obj.GetName())
	}
	handler := managedfields.NewScaleHandler(obj.GetManagedFields(), groupVersionOf(ctx, row), i.scale.mappings)
	oldScale := i.scale.of(obj)
	managed, err := handler.ToSubresource()
	if err != nil {
		return nil, err
	}
	oldScale.ManagedFields = managed
	updated, err := i.info.UpdatedObject(ctx, oldScale)
	if err != nil {
		return nil, err
	}
	newScale, ok := updated.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", updated))
	}
	if errs := validateScale(newScale); len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), newScale.Name, errs)
	}
	if newScale.ResourceVersion != "" {
		obj.SetResourceVersion(newScale.ResourceVersion)
	}
	if newScale.UID != "" {
		obj.SetUID(newScale.UID)
	}
	row.Scale.Set(obj, newScale.Spec.Replicas)
	entries, err := handler.ToParent(newScale.ManagedFields)
	if err != nil {
		return nil, err
	}
	obj.SetManagedFields(entries)
	return obj, nil
}

func validateScale(s *autoscalingv1.Scale) field.ErrorList {
	if s.Spec.Replicas < 0 {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), s.Spec.Replicas, "must be greater than or equal to 0")}
	}
	return nil
}
