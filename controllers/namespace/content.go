package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// parallel is how many kinds are emptied at once: a namespace has about thirty, most of them empty.
const parallel = 8

// contents is what was found in a namespace and could not be removed at once.
type contents struct {
	discovery  error
	parse      error
	failures   []error
	remaining  map[schema.GroupVersionResource]int
	finalizers map[string]int
}

func (c *contents) err() error { return errors.Join(append(slices.Clone(c.failures), c.discovery)...) }

// empty deletes all objects in the namespace: pods first, since the others may be what the pods need to stop well.
func (r *Reconciler) empty(ctx context.Context, ns *corev1.Namespace) *contents {
	c := &contents{remaining: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}}
	kinds := r.kinds(c)
	pods := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	if verbs, ok := kinds[pods]; ok {
		r.emptyKind(ctx, ns, pods, verbs, c, &sync.Mutex{})
		if c.remaining[pods] > 0 {
			return c
		}
		delete(kinds, pods)
	}
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, parallel)
	)
	for kind, verbs := range kinds {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			r.emptyKind(ctx, ns, kind, verbs, c, &mu)
		})
	}
	group.Wait()
	return c
}

// kinds asks discovery for all namespaced kinds that can be deleted. Groups that do not answer are reported; the others are emptied.
func (r *Reconciler) kinds(c *contents) map[schema.GroupVersionResource]metav1.Verbs {
	lists, err := discovery.ServerPreferredNamespacedResources(r.Discovery)
	if err != nil {
		c.discovery = err
	}
	kinds := map[schema.GroupVersionResource]metav1.Verbs{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			c.parse = err
			continue
		}
		for _, res := range list.APIResources {
			if slices.Contains(res.Verbs, "delete") {
				kinds[gv.WithResource(res.Name)] = res.Verbs
			}
		}
	}
	return kinds
}

func (r *Reconciler) emptyKind(ctx context.Context, ns *corev1.Namespace, kind schema.GroupVersionResource, verbs metav1.Verbs, c *contents, mu *sync.Mutex) {
	left, err := r.deleteAll(ctx, ns, kind, verbs)
	mu.Lock()
	defer mu.Unlock()
	if err != nil {
		c.failures = append(c.failures, fmt.Errorf("%s: %w", kind.GroupResource(), err))
		return
	}
	if len(left) > 0 {
		c.remaining[kind] = len(left)
	}
	for _, obj := range left {
		for _, f := range obj.Finalizers {
			c.finalizers[f]++
		}
	}
}

// deleteAll deletes the objects of a kind and returns those that are still there.
func (r *Reconciler) deleteAll(ctx context.Context, ns *corev1.Namespace, kind schema.GroupVersionResource, verbs metav1.Verbs) ([]metav1.PartialObjectMetadata, error) {
	if !slices.Contains(verbs, "list") {
		return nil, nil // such as token requests: nothing is stored
	}
	client := r.Metadata.Resource(kind).Namespace(ns.Name)
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		return nil, unserved(err)
	}
	opts := metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}
	if slices.Contains(verbs, "deletecollection") {
		if err := client.DeleteCollection(ctx, opts, metav1.ListOptions{}); err != nil && !apierrors.IsMethodNotSupported(err) {
			return nil, unserved(err)
		}
	} else {
		for i := range list.Items {
			if err := client.Delete(ctx, list.Items[i].Name, opts); err != nil && !apierrors.IsNotFound(err) {
				return nil, err
			}
		}
	}
	list, err = client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, unserved(err)
	}
	return list.Items, nil
}

// unserved swallows the errors of kinds that ceased to be served since discovery.
func unserved(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return nil
	}
	return err
}
