// Package revision keeps the history of a controller's pod templates in ControllerRevisions, from which kubectl rollout undo
// restores them.
package revision

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/ownership"
	"keelson.dev/internal/lister"
)

// HashLabel carries the hash of a revision, on it and on its pods.
const HashLabel = appsv1.ControllerRevisionHashLabelKey

// maxNamePrefix leaves room for the hash behind the owner's name.
const maxNamePrefix = 223

// History reads and writes the revisions of one kind of owner.
type History struct {
	Client    client.Client
	Revisions lister.Of[*appsv1.ControllerRevision]
	Owner     schema.GroupVersionKind
	Fresh     func() client.Object
}

// Snapshot returns the data of a revision: a patch that puts the template in place.
func Snapshot(template *corev1.PodTemplateSpec) ([]byte, error) {
	raw, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("encode template: %w", err)
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("decode template: %w", err)
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// Template returns the template that a revision recorded.
func Template(rev *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var data struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(rev.Data.Raw, &data); err != nil {
		return nil, fmt.Errorf("decode revision %s: %w", rev.Name, err)
	}
	return &data.Spec.Template, nil
}

// Owned returns the owner's revisions, oldest first, after adopting and releasing by selector.
func (h History) Owned(ctx context.Context, owner client.Object, selector labels.Selector) ([]*appsv1.ControllerRevision, error) {
	claimer := ownership.Claimer{Client: h.Client, Owner: h.Owner, Fresh: h.Fresh}
	candidates := append(h.Revisions.Controlled(owner.GetNamespace(), owner.GetUID()), h.Revisions.Orphans(owner.GetNamespace())...)
	owned, err := ownership.Claim(ctx, claimer, owner, ownership.Matches[*appsv1.ControllerRevision](selector), candidates)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(owned, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return owned, nil
}

// Ensure returns the revision of the owner's current template as the newest of revisions: found, renumbered or created. collisions
// is counted up when another object has taken the name.
func (h History) Ensure(ctx context.Context, owner client.Object, template *corev1.PodTemplateSpec, revisions []*appsv1.ControllerRevision, collisions *int32) (*appsv1.ControllerRevision, []*appsv1.ControllerRevision, error) {
	data, err := Snapshot(template)
	if err != nil {
		return nil, nil, err
	}
	next := int64(1)
	if len(revisions) > 0 {
		next = revisions[len(revisions)-1].Revision + 1
	}
	for i, found := range slices.Backward(revisions) {
		if !sameData(found.Data.Raw, data) {
			continue
		}
		if i == len(revisions)-1 {
			return found, revisions, nil
		}
		renumbered := found.DeepCopy()
		renumbered.Revision = next
		if err := h.Client.Update(ctx, renumbered); err != nil {
			return nil, nil, fmt.Errorf("renumber revision: %w", err)
		}
		others := slices.Delete(slices.Clone(revisions), i, i+1)
		return renumbered, append(others, renumbered), nil
	}
	created, err := h.create(ctx, owner, template, data, next, collisions)
	if err != nil {
		return nil, nil, err
	}
	return created, append(slices.Clone(revisions), created), nil
}

func (h History) create(ctx context.Context, owner client.Object, template *corev1.PodTemplateSpec, data []byte, number int64, collisions *int32) (*appsv1.ControllerRevision, error) {
	for {
		hash := hashOf(data, collisions)
		prefix := owner.GetName()
		if len(prefix) > maxNamePrefix {
			prefix = prefix[:maxNamePrefix]
		}
		rev := &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: owner.GetNamespace(), Name: prefix + "-" + hash,
				Labels: maps.Clone(template.Labels), Annotations: maps.Clone(owner.GetAnnotations()),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, h.Owner)},
			},
			Data: runtime.RawExtension{Raw: data}, Revision: number,
		}
		metav1.SetMetaDataLabel(&rev.ObjectMeta, HashLabel, hash)
		err := h.Client.Create(ctx, rev)
		if !apierrors.IsAlreadyExists(err) {
			if err != nil {
				return nil, fmt.Errorf("create revision: %w", err)
			}
			return rev, nil
		}
		existing := &appsv1.ControllerRevision{}
		if err := h.Client.Get(ctx, client.ObjectKeyFromObject(rev), existing); err != nil {
			return nil, fmt.Errorf("get revision: %w", err)
		}
		if metav1.IsControlledBy(existing, owner) && sameData(existing.Data.Raw, data) {
			return existing, nil
		}
		*collisions++
	}
}

// Truncate deletes the oldest revisions that are neither live nor within the limit.
func (h History) Truncate(ctx context.Context, revisions []*appsv1.ControllerRevision, live map[string]bool, limit *int32) error {
	var dead []*appsv1.ControllerRevision
	for _, rev := range revisions {
		if !live[rev.Name] {
			dead = append(dead, rev)
		}
	}
	surplus := len(dead) - int(ptr.Deref(limit, 10))
	for i := range max(0, surplus) {
		if err := h.Client.Delete(ctx, dead[i], client.Preconditions{UID: new(dead[i].UID)}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old revision: %w", err)
		}
	}
	return nil
}

func hashOf(data []byte, collisions *int32) string {
	h := fnv.New32()
	h.Write(data)
	if collisions != nil && *collisions > 0 {
		h.Write([]byte(strconv.Itoa(int(*collisions))))
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// sameData compares the values, since an API server may store the same data with other spaces or order.
func sameData(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	canonicalX, errX := json.Marshal(x)
	canonicalY, errY := json.Marshal(y)
	return errX == nil && errY == nil && bytes.Equal(canonicalX, canonicalY)
}
