package garbagecollector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
)

func (c *collector) client(k *kind, namespace string) metadata.ResourceInterface {
	if k.namespaced {
		return c.metadata.Resource(k.resource).Namespace(namespace)
	}
	return c.metadata.Resource(k.resource)
}

// delete deletes exactly the object that was judged: if it changed since, the change brings it back for another look.
func (c *collector) delete(ctx context.Context, n *node, policy metav1.DeletionPropagation) error {
	err := c.client(n.kind, n.namespace).Delete(ctx, n.name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &n.uid, ResourceVersion: &n.version}, PropagationPolicy: &policy,
	})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return c.relook(ctx, n, err)
}

// relook reads an object again whose write lost a race, so that the graph does not wait for a watch that may be behind.
func (c *collector) relook(ctx context.Context, n *node, cause error) error {
	if !apierrors.IsConflict(cause) {
		return cause
	}
	latest, err := c.client(n.kind, n.namespace).Get(ctx, n.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && latest.UID != n.uid:
		c.attend(c.graph.remove(n.uid))
		return nil
	case err != nil:
		return err
	}
	if current := c.graph.node(n.uid); current != nil && current.version == n.version {
		c.attend(c.graph.observe(n.kind, latest))
	}
	return cause
}

// patience returns how long to wait for an owner that was never seen.
func (c *collector) patience(uid types.UID) time.Duration {
	now := c.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	since, waiting := c.unseen[uid]
	if !waiting {
		if len(c.unseen) >= absentMost {
			c.unseen = map[types.UID]time.Time{} // waited for long enough; the worst that follows is another second
		}
		since = now
		c.unseen[uid] = now
	}
	return since.Add(unseenDelay).Sub(now)
}

// ownerExists asks the API server whether an owner that was never seen exists as the reference names it.
func (c *collector) ownerExists(ctx context.Context, n *node, ref metav1.OwnerReference) (bool, error) {
	k, ok := c.monitors.kindOf(ref.APIVersion, ref.Kind)
	if !ok {
		c.monitors.askRescan()
		return false, fmt.Errorf("owner %s %s of %s %s/%s: no such kind is served", ref.APIVersion, ref.Kind, n.kind.gvk.Kind, n.namespace, n.name)
	}
	if k.namespaced && !n.kind.namespaced {
		c.wrongNamespace(n, ref)
		return true, nil // an object without a namespace cannot have such an owner; nothing is deleted for a mistake
	}
	at := coordinates{apiVersion: ref.APIVersion, kind: ref.Kind, name: ref.Name, uid: ref.UID}
	if k.namespaced {
		at.namespace = n.namespace
	}
	if c.isAbsent(at) {
		return false, nil
	}
	owner, err := c.client(k, n.namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("get owner: %w", err)
	}
	if err == nil && owner.UID == ref.UID {
		return true, nil
	}
	c.rememberAbsent(at)
	return false, nil
}

func (c *collector) isAbsent(at coordinates) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.absent[at]
}

func (c *collector) rememberAbsent(at coordinates) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.absent[at] {
		return
	}
	if len(c.evicted) >= absentMost {
		delete(c.absent, c.evicted[0])
		c.evicted = slices.Clone(c.evicted[1:])
	}
	c.absent[at] = true
	c.evicted = append(c.evicted, at)
}

// setOwners replaces the owner references that the graph knows of.
func (c *collector) setOwners(ctx context.Context, n *node, owners []metav1.OwnerReference) error {
	err := c.patch(ctx, n, n.version, map[string]any{"ownerReferences": owners})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return c.relook(ctx, n, err)
}

// disown removes one owner, whatever else has changed on the object.
func (c *collector) disown(ctx context.Context, n *node, owner types.UID) error {
	return c.edit(ctx, n, func(latest *metav1.PartialObjectMetadata) map[string]any {
		left := slices.DeleteFunc(slices.Clone(latest.OwnerReferences), func(ref metav1.OwnerReference) bool { return ref.UID == owner })
		if len(left) == len(latest.OwnerReferences) {
			return nil
		}
		return map[string]any{"ownerReferences": left}
	})
}

func (c *collector) dropFinalizer(ctx context.Context, n *node, finalizer string) error {
	return c.edit(ctx, n, func(latest *metav1.PartialObjectMetadata) map[string]any {
		left := slices.DeleteFunc(slices.Clone(latest.Finalizers), func(f string) bool { return f == finalizer })
		if len(left) == len(latest.Finalizers) {
			return nil
		}
		return map[string]any{"finalizers": left}
	})
}

// edit patches the metadata that change returns for the latest version of an object; nil changes nothing.
func (c *collector) edit(ctx context.Context, n *node, change func(*metav1.PartialObjectMetadata) map[string]any) error {
	latest, err := c.client(n.kind, n.namespace).Get(ctx, n.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && latest.UID != n.uid {
		return nil
	}
	if err != nil {
		return err
	}
	meta := change(latest)
	if meta == nil {
		return nil
	}
	if err := c.patch(ctx, n, latest.ResourceVersion, meta); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// patch is a merge patch, which every kind understands, custom resources too.
func (c *collector) patch(ctx context.Context, n *node, version string, meta map[string]any) error {
	meta["uid"] = n.uid
	meta["resourceVersion"] = version
	body, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return err
	}
	_, err = c.client(n.kind, n.namespace).Patch(ctx, n.name, types.MergePatchType, body, metav1.PatchOptions{})
	return err
}
