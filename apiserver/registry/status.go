package registry

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/apis/resource"
	"keelson.dev/internal/stack"
)

// statusStrategy serves updates of /status.
type statusStrategy struct {
	*strategy
	statusReset map[fieldpath.APIVersion]*fieldpath.Set
	guard       func(ctx context.Context, obj, old runtime.Object) field.ErrorList // nil: none
}

func newStatusStrategy(main *strategy) *statusStrategy {
	var paths []fieldpath.Path
	for _, name := range main.shape.names {
		paths = append(paths, fieldpath.MakePathOrDie(name))
	}
	for _, name := range main.row.StatusFixes {
		if paths = append(paths, fieldpath.MakePathOrDie("metadata", name)); name == "metadata" {
			paths[len(paths)-1] = fieldpath.MakePathOrDie(name)
		}
	}
	return &statusStrategy{strategy: main, statusReset: resetFields(main.row, fieldpath.NewSet(paths...))}
}

// AllowCreateOnUpdate implements rest.RESTUpdateStrategy: a status never creates its object.
func (s *statusStrategy) AllowCreateOnUpdate(context.Context) bool { return false }

// GetResetFields implements rest.ResetFieldsStrategy.
func (s *statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.statusReset
}

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s *statusStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	typed, typedOld := obj.(resource.Object), old.(resource.Object)
	s.shape.copyRest(typed, typedOld)
	for _, name := range s.row.StatusFixes {
		metadataParts[name](typed, typedOld)
	}
	if s.row.PrepareStatus != nil {
		s.row.PrepareStatus(typed, typedOld)
	}
}

// metadataParts restore what a row names in StatusFixes.
var metadataParts = map[string]func(obj, old resource.Object){
	"deletionTimestamp": func(obj, old resource.Object) { obj.SetDeletionTimestamp(old.GetDeletionTimestamp()) },
	"labels":            func(obj, old resource.Object) { obj.SetLabels(old.GetLabels()) },
	"metadata":          func(obj, old resource.Object) { metav1.ResetObjectMetaForStatus(obj, old) },
	"ownerReferences":   func(obj, old resource.Object) { obj.SetOwnerReferences(old.GetOwnerReferences()) },
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (s *statusStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	var errs field.ErrorList
	if s.guard != nil {
		errs = s.guard(ctx, obj, old)
	}
	if s.row.ValidateStatus == nil {
		return errs
	}
	errs = append(errs, s.validateFinalizers(obj.(resource.Object))...)
	return append(errs, s.row.ValidateStatus(obj.(resource.Object), old.(resource.Object))...)
}

// WarningsOnUpdate implements rest.RESTUpdateStrategy: what is wrong with the rest is not this client's doing.
func (s *statusStrategy) WarningsOnUpdate(_ context.Context, obj, _ runtime.Object) []string {
	if s.row.WarnStatus == nil {
		return nil
	}
	return s.row.WarnStatus(obj.(resource.Object))
}

// Partial serves a part of an object (status, finalize, ephemeralcontainers, ...): it can be read and updated, nothing else.
type Partial struct {
	store *genericregistry.Store
}

// NewPartial serves updates by another strategy on the store of a kind.
func NewPartial(store *genericregistry.Store, update rest.RESTUpdateStrategy, reset rest.ResetFieldsStrategy) *Partial {
	part := *store
	part.UpdateStrategy, part.ResetFieldsStrategy = update, reset
	part.BeginUpdate, part.AfterUpdate = nil, nil
	return &Partial{store: &part}
}

// Status serves /status.
func (k *Kind) Status() *Partial {
	s := newStatusStrategy(k.main)
	s.guard = k.GuardStatus
	return NewPartial(k.Store, s, s)
}

// Variant returns the main strategy of the kind with another preparation and validation of updates, for subresources that write
// one part of the object. reset names the top-level fields that such a write cannot set.
func (k *Kind) Variant(prepare func(obj, old resource.Object), validate func(ctx context.Context, obj, old resource.Object) field.ErrorList, reset ...fieldpath.Path) *Partial {
	v := &variant{strategy: k.main, prepare: prepare, validate: validate}
	if len(reset) > 0 {
		v.variantReset = resetFields(k.Row, fieldpath.NewSet(reset...))
	}
	return NewPartial(k.Store, v, v)
}

type variant struct {
	*strategy
	prepare      func(obj, old resource.Object)
	validate     func(ctx context.Context, obj, old resource.Object) field.ErrorList
	variantReset map[fieldpath.APIVersion]*fieldpath.Set
}

// AllowCreateOnUpdate implements rest.RESTUpdateStrategy.
func (v *variant) AllowCreateOnUpdate(context.Context) bool { return false }

// GetResetFields implements rest.ResetFieldsStrategy.
func (v *variant) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set { return v.variantReset }

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (v *variant) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	typed, typedOld := obj.(resource.Object), old.(resource.Object)
	v.prepare(typed, typedOld)
	if v.counts(typed) && v.changed(typed, typedOld) {
		typed.SetGeneration(typedOld.GetGeneration() + 1)
	}
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (v *variant) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	if v.validate == nil {
		return nil
	}
	return append(v.restrict(ctx, obj, old), v.validate(ctx, obj.(resource.Object), old.(resource.Object))...)
}

// New implements rest.Storage.
func (p *Partial) New() runtime.Object { return p.store.New() }

// Destroy implements rest.Storage; the store belongs to the main resource.
func (p *Partial) Destroy() {}

// Get implements rest.Getter.
func (p *Partial) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return p.store.Get(ctx, name, options)
}

// Update implements rest.Updater. A part never creates its object.
func (p *Partial) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	stack.Room16K(len(name)) // as in Main
	return p.store.Update(ctx, name, info, create, update, false, options)
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (p *Partial) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return p.store.GetResetFields()
}

// ConvertToTable implements rest.TableConvertor.
func (p *Partial) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return p.store.ConvertToTable(ctx, obj, options)
}

var (
	_ rest.Patcher             = &Partial{}
	_ rest.ResetFieldsStrategy = &Partial{}
)
