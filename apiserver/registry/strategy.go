package registry

import (
	"context"
	"fmt"
	"reflect"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/warning"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/apis/resource"
	rules "keelson.dev/apis/validate"
)

// strategy serves creates and updates of every kind.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator

	row    *resource.Resource
	scheme *runtime.Scheme
	shape  shape
	// declared tells that validation was generated for the type.
	declared bool
	// restrict refuses what is valid but not allowed on this server.
	restrict func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	// reset are the fields that a write of the main resource cannot set, by served version.
	reset map[fieldpath.APIVersion]*fieldpath.Set
}

func newStrategy(row *resource.Resource, scheme *runtime.Scheme) (*strategy, error) {
	shape, err := shapeOf(row)
	if err != nil {
		return nil, err
	}
	s := &strategy{
		ObjectTyper: scheme, NameGenerator: names.SimpleNameGenerator,
		row: row, scheme: scheme, shape: shape, declared: scheme.HasValidationFunc(row.New()),
	}
	if row.HasStatus {
		paths := []fieldpath.Path{fieldpath.MakePathOrDie("status")}
		for _, name := range row.Unowned {
			paths = append(paths, fieldpath.MakePathOrDie(name))
		}
		s.reset = resetFields(row, fieldpath.NewSet(paths...))
	}
	return s, nil
}

// NamespaceScoped implements rest.RESTCreateStrategy.
func (s *strategy) NamespaceScoped() bool { return s.row.Namespaced }

// AllowCreateOnUpdate implements rest.RESTUpdateStrategy.
func (s *strategy) AllowCreateOnUpdate(context.Context) bool { return s.row.AllowCreateOnUpdate }

// AllowUnconditionalUpdate implements rest.RESTUpdateStrategy.
func (s *strategy) AllowUnconditionalUpdate(context.Context) bool {
	return s.row.AllowUnconditionalUpdate
}

// Canonicalize implements rest.RESTCreateStrategy; defaults and Prepare have done all there is to do.
func (s *strategy) Canonicalize(runtime.Object) {}

// GetResetFields implements rest.ResetFieldsStrategy.
func (s *strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set { return s.reset }

// PrepareForCreate implements rest.RESTCreateStrategy.
func (s *strategy) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	typed := obj.(resource.Object)
	if s.row.HasStatus && !s.row.StatusOnCreate {
		s.shape.clearStatus(typed)
	}
	typed.SetGeneration(0)
	if s.row.WarnUnprepared != nil {
		for _, text := range s.row.WarnUnprepared(typed) {
			warning.AddWarning(ctx, "", text)
		}
	}
	if s.row.Prepare != nil {
		s.row.Prepare(typed, nil)
	}
	if s.counts(typed) && !s.row.LateGeneration {
		typed.SetGeneration(1)
	}
}

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s *strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	typed, typedOld := obj.(resource.Object), old.(resource.Object)
	if s.row.HasStatus {
		s.shape.copyStatus(typed, typedOld)
	}
	if s.row.Prepare != nil {
		s.row.Prepare(typed, typedOld)
	}
	if s.counts(typed) && s.changed(typed, typedOld) {
		typed.SetGeneration(typedOld.GetGeneration() + 1)
	}
}

// counts tells whether objects of the kind have a generation.
func (s *strategy) counts(obj resource.Object) bool {
	if s.row.GenerationOf == nil {
		return s.row.HasStatus
	}
	return s.row.GenerationOf(obj) != nil
}

func (s *strategy) changed(obj, old resource.Object) bool {
	if s.row.GenerationOf == nil {
		return !s.shape.equalBut(obj, old)
	}
	return !apiequality.Semantic.DeepEqual(s.row.GenerationOf(obj), s.row.GenerationOf(old))
}

// Validate implements rest.RESTCreateStrategy.
func (s *strategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	typed := obj.(resource.Object)
	errs := append(s.validateMetadata(typed), s.validateFinalizers(typed)...)
	if check := s.served(ctx); check != nil {
		return append(errs, check(typed, nil)...)
	}
	if s.row.Validate != nil {
		errs = append(errs, s.row.Validate(typed)...)
	}
	return append(errs, s.restrict(ctx, obj, nil)...)
}

func (s *strategy) validateMetadata(obj resource.Object) field.ErrorList {
	nameRule := validation.NameIsDNSSubdomain
	if s.row.ValidateName != nil {
		nameRule = s.row.ValidateName
	}
	return validation.ValidateObjectMetaAccessor(obj, s.row.Namespaced, nameRule, field.NewPath("metadata"))
}

func (s *strategy) validateFinalizers(obj resource.Object) field.ErrorList {
	if s.row.AnyFinalizer {
		return nil
	}
	var errs field.ErrorList
	for i, name := range obj.GetFinalizers() {
		errs = append(errs, rules.FinalizerName(name, field.NewPath("metadata", "finalizers").Index(i))...)
	}
	return errs
}

// served returns the rules of the version of the request where they are not those of the hub.
func (s *strategy) served(ctx context.Context) func(obj, old resource.Object) field.ErrorList {
	info, ok := genericapirequest.RequestInfoFrom(ctx)
	if !ok {
		return nil
	}
	return s.row.ValidateServed[schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}]
}

// ValidateUpdate implements rest.RESTUpdateStrategy; the library has compared the metadata with the old one's and checks it but for
// the names.
func (s *strategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	typed, typedOld := obj.(resource.Object), old.(resource.Object)
	errs := s.validateFinalizers(typed)
	if !s.row.NameOnce {
		errs = append(errs, s.validateMetadata(typed)...)
	}
	check := s.served(ctx)
	switch {
	case check != nil:
		errs = append(errs, check(typed, typedOld)...)
	case s.row.ValidateUpdate != nil:
		errs = append(errs, s.row.ValidateUpdate(typed, typedOld)...)
	case s.row.Validate != nil:
		errs = append(errs, s.row.Validate(typed)...)
	}
	return append(errs, s.restrict(ctx, obj, old)...)
}

// DeclarativeValidationConfig implements rest.DeclarativeValidationStrategy.
func (s *strategy) DeclarativeValidationConfig(context.Context, runtime.Object, runtime.Object) rest.DeclarativeValidationConfig {
	return rest.DeclarativeValidationConfig{}
}

// ValidateDeclaratively implements rest.DeclarativeValidationStrategy. The library's own version converts to the versioned type
// first, which is a deep copy of each written object; here the hub is that type.
func (s *strategy) ValidateDeclaratively(ctx context.Context, obj, old runtime.Object, errs field.ErrorList, op operation.Type, config rest.DeclarativeValidationConfig) field.ErrorList {
	if !s.declared {
		return errs
	}
	var subresources []string
	if info, ok := genericapirequest.RequestInfoFrom(ctx); ok && info.Subresource != "" {
		subresources = []string{info.Subresource}
	}
	var declared field.ErrorList
	if op == operation.Create {
		declared = s.scheme.Validate(ctx, config.Options, obj, subresources...)
	} else {
		declared = s.scheme.ValidateUpdate(ctx, config.Options, obj, old, subresources...)
	}
	beta := utilfeature.DefaultFeatureGate.Enabled(features.DeclarativeValidationBeta)
	enforced := validate.FilterEnforcedDeclarativeErrors(ctx, declared, beta)
	return mergeErrors(validate.FilterCoveredHandwrittenErrors(ctx, errs, enforced, beta), enforced)
}

// mergeErrors adds the declared errors that no hand-written rule has reported for the same field.
func mergeErrors(written, declared field.ErrorList) field.ErrorList {
	type key struct {
		errType field.ErrorType
		field   string
	}
	seen := map[key]bool{}
	for _, err := range written {
		seen[key{err.Type, err.Field}] = true
	}
	for _, err := range declared {
		if !seen[key{err.Type, err.Field}] {
			written = append(written, err)
		}
	}
	return written
}

// WarningsOnCreate implements rest.RESTCreateStrategy.
func (s *strategy) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	if s.row.Warn == nil {
		return nil
	}
	return s.row.Warn(obj.(resource.Object), nil)
}

// WarningsOnUpdate implements rest.RESTUpdateStrategy.
func (s *strategy) WarningsOnUpdate(_ context.Context, obj, old runtime.Object) []string {
	if s.row.Warn == nil {
		return nil
	}
	return s.row.Warn(obj.(resource.Object), old.(resource.Object))
}

// resetFields gives every served version the same set.
func resetFields(row *resource.Resource, set *fieldpath.Set) map[fieldpath.APIVersion]*fieldpath.Set {
	reset := map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(row.GroupVersion.String()): set}
	for _, gv := range row.Served {
		reset[fieldpath.APIVersion(gv.String())] = set
	}
	return reset
}

// shape knows the top-level fields of a Go type: which one is the status, and which are neither that nor metadata.
type shape struct {
	status int // -1: none
	rest   []int
	names  []string // JSON names of rest
}

func shapeOf(row *resource.Resource) (shape, error) {
	s := shape{status: -1}
	elem := reflect.TypeOf(row.New()).Elem()
	for i := range elem.NumField() {
		f := elem.Field(i)
		switch f.Name {
		case "TypeMeta", "ObjectMeta":
			continue
		case "Status":
			s.status = i
			continue
		}
		s.rest = append(s.rest, i)
		s.names = append(s.names, jsonName(f))
	}
	if row.HasStatus && s.status < 0 {
		return s, fmt.Errorf("%s: HasStatus is set, but the type has no status", row.Kind)
	}
	return s, nil
}

func jsonName(f reflect.StructField) string {
	name := f.Tag.Get("json")
	for i, c := range name {
		if c == ',' {
			return name[:i]
		}
	}
	return name
}

func (s shape) clearStatus(obj resource.Object) {
	reflect.ValueOf(obj).Elem().Field(s.status).SetZero()
}

func (s shape) copyStatus(to, from resource.Object) {
	reflect.ValueOf(to).Elem().Field(s.status).Set(reflect.ValueOf(from).Elem().Field(s.status))
}

// copyRest restores everything but metadata and status.
func (s shape) copyRest(to, from resource.Object) {
	t, f := reflect.ValueOf(to).Elem(), reflect.ValueOf(from).Elem()
	for _, i := range s.rest {
		t.Field(i).Set(f.Field(i))
	}
}

// equalBut compares everything but metadata and status, without copying.
func (s shape) equalBut(a, b resource.Object) bool {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for _, i := range s.rest {
		if !apiequality.Semantic.DeepEqual(va.Field(i).Addr().Interface(), vb.Field(i).Addr().Interface()) {
			return false
		}
	}
	return true
}
