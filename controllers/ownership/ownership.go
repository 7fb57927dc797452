// Package ownership settles which objects an owner controls: it adopts orphans that its selector matches and releases those that
// no longer match.
package ownership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Split sorts candidates into those that owner controls and keeps, those that it should adopt, and those that it should release.
// An owner that is being deleted neither adopts nor releases.
func Split[T metav1.Object](owner metav1.Object, matches func(T) bool, candidates []T) (keep, adopt, release []T) {
	terminating := owner.GetDeletionTimestamp() != nil
	for _, obj := range candidates {
		ref := metav1.GetControllerOfNoCopy(obj)
		switch {
		case ref == nil && !terminating && obj.GetDeletionTimestamp() == nil && matches(obj):
			adopt = append(adopt, obj)
		case ref == nil || ref.UID != owner.GetUID():
		case matches(obj):
			keep = append(keep, obj)
		case !terminating:
			release = append(release, obj)
		}
	}
	return keep, adopt, release
}

// Matches returns a predicate for a label selector.
func Matches[T metav1.Object](selector labels.Selector) func(T) bool {
	return func(obj T) bool { return selector.Matches(labels.Set(obj.GetLabels())) }
}

// Claimer carries out a Split for one kind of owner.
type Claimer struct {
	Client client.Client
	Owner  schema.GroupVersionKind
	// Fresh returns an empty object of the owner's kind, to read the owner live before the first adoption.
	Fresh func() client.Object
	// Finalizers are added to what is adopted.
	Finalizers []string
}

// Claim returns those of the candidates that owner controls after adoption and release.
func Claim[T client.Object](ctx context.Context, c Claimer, owner client.Object, matches func(T) bool, candidates []T) ([]T, error) {
	keep, adopt, release := Split(owner, matches, candidates)
	var errs []error
	if len(adopt) > 0 {
		if err := c.confirm(ctx, owner); err != nil {
			return nil, err
		}
	}
	for _, obj := range adopt {
		adopted, err := c.adopt(ctx, owner, obj)
		if err != nil {
			errs = append(errs, fmt.Errorf("adopt %s: %w", obj.GetName(), err))
		} else if adopted {
			keep = append(keep, obj)
		}
	}
	for _, obj := range release {
		if err := c.release(ctx, owner, obj); err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", obj.GetName(), err))
		}
	}
	return keep, errors.Join(errs...)
}

// confirm makes sure that the owner of the cache still lives: orphans of a deleted owner stay orphans.
func (c Claimer) confirm(ctx context.Context, owner client.Object) error {
	fresh := c.Fresh()
	if err := c.Client.Get(ctx, client.ObjectKeyFromObject(owner), fresh); err != nil {
		return fmt.Errorf("confirm owner: %w", err)
	}
	if fresh.GetUID() != owner.GetUID() {
		return fmt.Errorf("original %s %s is gone: got uid %s, wanted %s", c.Owner.Kind, client.ObjectKeyFromObject(owner), fresh.GetUID(), owner.GetUID())
	}
	if fresh.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%s %s has just been deleted at %s", c.Owner.Kind, client.ObjectKeyFromObject(owner), fresh.GetDeletionTimestamp())
	}
	return nil
}

func (c Claimer) adopt(ctx context.Context, owner, obj client.Object) (bool, error) {
	meta := map[string]any{"uid": obj.GetUID(), "ownerReferences": []any{metav1.NewControllerRef(owner, c.Owner)}}
	if len(c.Finalizers) > 0 {
		meta["finalizers"] = c.Finalizers
	}
	err := c.patch(ctx, obj, meta)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func (c Claimer) release(ctx context.Context, owner, obj client.Object) error {
	meta := map[string]any{"uid": obj.GetUID(), "ownerReferences": []any{map[string]any{"$patch": "delete", "uid": owner.GetUID()}}}
	if len(c.Finalizers) > 0 {
		meta["$deleteFromPrimitiveList/finalizers"] = c.Finalizers
	}
	err := c.patch(ctx, obj, meta)
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		// Gone, or another object of that name with another uid: nothing of ours to release.
		return nil
	}
	return err
}

func (c Claimer) patch(ctx context.Context, obj client.Object, meta map[string]any) error {
	body, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return err
	}
	target, ok := obj.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("%T has no metadata", obj)
	}
	return c.Client.Patch(ctx, target, client.RawPatch(types.StrategicMergePatchType, body))
}
