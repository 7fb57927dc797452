package subresources

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apiserver/registry"
)

// HangNamespaces keeps a namespace in the store until its spec has no finalizers either. It is called before the storages of the
// kind are made.
func HangNamespaces(namespaces *registry.Kind) {
	namespaces.ShouldDeleteDuringUpdate = func(_ context.Context, _ string, obj, _ runtime.Object) bool {
		return len(obj.(*corev1.Namespace).Spec.Finalizers) == 0
	}
}

// namespace ends in two steps: deleting it marks it as terminating, and when everybody in spec.finalizers has cleaned up it goes.
// The interfaces are those of the store but for deleting a collection: namespaces are nothing to delete by the dozen.
type namespace struct {
	rest.Scoper
	rest.Getter
	rest.Lister
	rest.CreaterUpdater
	rest.Watcher
	rest.ShortNamesProvider
	rest.SingularNameProvider
	rest.ResetFieldsStrategy
	rest.StorageVersionProvider
	store *registry.Main
}

func newNamespace(kind *registry.Kind) *namespace {
	m := kind.Main()
	return &namespace{m, m, m, m, m, m, m, m, m, m}
}

// New implements rest.Storage.
func (n *namespace) New() runtime.Object { return n.store.New() }

// Destroy implements rest.Storage.
func (n *namespace) Destroy() { n.store.Destroy() }

// ReadinessCheck implements rest.StorageWithReadiness.
func (n *namespace) ReadinessCheck() error { return n.store.ReadinessCheck() }

// Delete implements rest.GracefulDeleter.
func (n *namespace) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := n.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	found := obj.(*corev1.Namespace)
	options = pinNamespace(options, found)
	if uid := options.Preconditions.UID; *uid != found.UID {
		return nil, false, apierrors.NewConflict(corev1.Resource("namespaces"), name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *uid, found.UID)) //nolint:staticcheck // the API's wording
	}
	if rv := options.Preconditions.ResourceVersion; rv != nil && *rv != found.ResourceVersion {
		return nil, false, apierrors.NewConflict(corev1.Resource("namespaces"), name,
			fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *rv, found.ResourceVersion)) //nolint:staticcheck // the API's wording
	}
	if found.DeletionTimestamp.IsZero() {
		return n.terminate(ctx, name, validate, options)
	}
	if len(found.Spec.Finalizers) > 0 { // it ends when its finalizers have gone, and is on its way
		return found, false, nil
	}
	return n.store.Delete(ctx, name, validate, options)
}

func pinNamespace(options *metav1.DeleteOptions, found *corev1.Namespace) *metav1.DeleteOptions {
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	if options.Preconditions.UID == nil {
		options.Preconditions.UID = &found.UID
	}
	return options
}

func (n *namespace) terminate(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	key, err := n.store.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, err
	}
	preconditions := &storage.Preconditions{UID: options.Preconditions.UID, ResourceVersion: options.Preconditions.ResourceVersion}
	out := &corev1.Namespace{}
	err = n.store.Storage.GuaranteedUpdate(ctx, key, out, false, preconditions, storage.SimpleUpdate(
		func(existing runtime.Object) (runtime.Object, error) {
			found := existing.(*corev1.Namespace)
			if err := validate(ctx, found); err != nil {
				return nil, err
			}
			if found.DeletionTimestamp.IsZero() {
				now := metav1.Now()
				found.DeletionTimestamp = &now
			}
			found.Status.Phase = corev1.NamespaceTerminating
			setDependentsFinalizer(found, options)
			return found, nil
		}), dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		err = storeerr.InterpretGetError(err, corev1.Resource("namespaces"), name)
		return nil, false, storeerr.InterpretUpdateError(err, corev1.Resource("namespaces"), name)
	}
	return out, false, nil
}

// setDependentsFinalizer notes for the garbage collector what is to become of objects that the namespace owns.
func setDependentsFinalizer(ns *corev1.Namespace, options *metav1.DeleteOptions) {
	drop := func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	}
	switch {
	case options.OrphanDependents != nil: //nolint:staticcheck // old clients still send it
		ns.Finalizers = slices.DeleteFunc(ns.Finalizers, drop)
		if *options.OrphanDependents { //nolint:staticcheck // old clients still send it
			ns.Finalizers = append(ns.Finalizers, metav1.FinalizerOrphanDependents)
		}
	case options.PropagationPolicy != nil:
		ns.Finalizers = slices.DeleteFunc(ns.Finalizers, drop)
		switch *options.PropagationPolicy {
		case metav1.DeletePropagationOrphan:
			ns.Finalizers = append(ns.Finalizers, metav1.FinalizerOrphanDependents)
		case metav1.DeletePropagationForeground:
			ns.Finalizers = append(ns.Finalizers, metav1.FinalizerDeleteDependents)
		case metav1.DeletePropagationBackground:
		}
	}
}

// finalize serves the subresource through which spec.finalizers shrink. An update that leaves none of a terminating namespace
// deletes it.
func finalize(namespaces *registry.Kind) rest.Storage {
	return updateOnly{namespaces.Variant(
		func(obj, old resource.Object) {
			ns, oldNS := obj.(*corev1.Namespace), old.(*corev1.Namespace)
			ns.Status = oldNS.Status
		},
		func(_ context.Context, obj, old resource.Object) field.ErrorList {
			return core.ValidateNamespaceFinalize(obj.(*corev1.Namespace), old.(*corev1.Namespace))
		},
		fieldpath.MakePathOrDie("status"),
	)}
}

// updateOnly hides everything of a part but PUT.
type updateOnly struct{ part *registry.Partial }

var _ rest.Updater = updateOnly{}

// New implements rest.Storage.
func (u updateOnly) New() runtime.Object { return u.part.New() }

// Destroy implements rest.Storage.
func (u updateOnly) Destroy() {}

// Update implements rest.Updater.
func (u updateOnly) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, allow bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return u.part.Update(ctx, name, info, create, update, allow, options)
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (u updateOnly) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return u.part.GetResetFields()
}
