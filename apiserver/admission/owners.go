package admission

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"
)

// ownerPermissions lets only those change owner references who may delete the object, since a reference to an owner that is gone
// deletes it; and only those block an owner's deletion who may set its finalizers.
func ownerPermissions(d dependencies) hooks {
	allowed := func(ctx context.Context, a admission.Attributes, record authorizer.AttributesRecord) (bool, string, error) {
		record.User, record.ResourceRequest = a.GetUserInfo(), true
		decision, reason, err := d.authorizer.Authorize(ctx, record)
		return decision == authorizer.DecisionAllow, reason, err
	}
	return hooks{validate: func(ctx context.Context, a admission.Attributes) error {
		if a.GetResource().GroupResource() == (schema.GroupResource{Resource: "pods"}) && a.GetSubresource() == "status" {
			return nil // a status update keeps the references, and old kubelets send wrong ones
		}
		owners, before, changed := ownersOf(a.GetObject(), a.GetOldObject())
		if !changed {
			return nil
		}
		if a.GetOperation() != admission.Create {
			ok, reason, err := allowed(ctx, a, authorizer.AttributesRecord{
				Verb: "delete", Namespace: a.GetNamespace(), Name: a.GetName(),
				APIGroup: a.GetResource().Group, APIVersion: a.GetResource().Version, Resource: a.GetResource().Resource, Subresource: a.GetSubresource(),
			})
			if !ok {
				return admission.NewForbidden(a, fmt.Errorf("cannot set an ownerRef on a resource you can't delete: %v, %w", reason, err))
			}
		}
		blocking := newlyBlocking(owners, before)
		if len(blocking) == 0 {
			return nil
		}
		// Asked first, since the names of resources come from discovery, which may not answer while a cluster comes up.
		if ok, _, _ := allowed(ctx, a, authorizer.AttributesRecord{Verb: "update", APIGroup: "*", APIVersion: "*", Resource: "*", Subresource: "finalizers", Name: "*"}); ok {
			return nil
		}
		for _, ref := range blocking {
			records, err := finalizersOf(d.mapper, ref, a.GetNamespace())
			if err != nil {
				return admission.NewForbidden(a, fmt.Errorf("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %s Kind %s: %w", ref.APIVersion, ref.Kind, err))
			}
			for _, record := range records {
				if ok, reason, err := allowed(ctx, a, record); !ok {
					return admission.NewForbidden(a, fmt.Errorf("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %v, %w", reason, err))
				}
			}
		}
		return nil
	}}
}

// ownersOf returns the owner references now and before, and whether they differ. What has no metadata has none.
func ownersOf(obj, old runtime.Object) (now, before []metav1.OwnerReference, changed bool) {
	object, err := meta.Accessor(obj)
	if err != nil {
		return nil, nil, false
	}
	now = object.GetOwnerReferences()
	if old == nil {
		return now, nil, len(now) > 0
	}
	former, err := meta.Accessor(old)
	if err != nil {
		return nil, nil, false
	}
	before = former.GetOwnerReferences()
	return now, before, !equality.Semantic.DeepEqual(now, before)
}

// newlyBlocking returns the references that block the owner's deletion and did not before.
func newlyBlocking(now, before []metav1.OwnerReference) []metav1.OwnerReference {
	blocked := map[any]bool{}
	for _, ref := range before {
		blocked[ref.UID] = ptr.Deref(ref.BlockOwnerDeletion, false)
	}
	var blocking []metav1.OwnerReference
	for _, ref := range now {
		if ptr.Deref(ref.BlockOwnerDeletion, false) && !blocked[ref.UID] {
			blocking = append(blocking, ref)
		}
	}
	return blocking
}

// finalizersOf is the right to set finalizers of the owner, for every resource that its kind may mean.
func finalizersOf(mapper meta.RESTMapper, ref metav1.OwnerReference, namespace string) ([]authorizer.AttributesRecord, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	mappings, err := mapper.RESTMappings(gv.WithKind(ref.Kind).GroupKind(), gv.Version)
	if err != nil {
		return nil, err
	}
	var records []authorizer.AttributesRecord
	for _, mapping := range mappings {
		record := authorizer.AttributesRecord{
			Verb: "update", Name: ref.Name, Subresource: "finalizers",
			APIGroup: mapping.Resource.Group, APIVersion: mapping.Resource.Version, Resource: mapping.Resource.Resource,
		}
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			record.Namespace = namespace
		}
		records = append(records, record)
	}
	return records, nil
}
