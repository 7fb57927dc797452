// Package garbagecollector removes what belongs to objects that are gone. It follows the owner references of all objects, whatever
// their kind, and carries out the three ways to delete an owner: in the background (dependents go afterwards), in the foreground
// (dependents that block go first) and orphaning (dependents are let go).
package garbagecollector

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"keelson.dev/controllers/env"
)

const (
	// syncGrace is how long the first lists of all kinds are waited for before anything is deleted. A kind whose server is away must
	// not stop the collection of all others for ever.
	syncGrace = 30 * time.Second
	syncRetry = 100 * time.Millisecond
	// unseenDelay is how long an owner that was never seen may still turn up in the stream of its own kind before it is asked for.
	unseenDelay = time.Second
	// absentMost bounds the memory of owners that are known to be gone.
	absentMost = 1000
)

// collector is the state of the controller.
type collector struct {
	metadata metadata.Interface
	recorder record.EventRecorder
	clock    clock.PassiveClock
	graph    *graph
	monitors *monitors
	started  time.Time

	mu      sync.Mutex
	queue   env.Queue
	early   []types.UID // needed attention before the queue was there
	absent  map[coordinates]bool
	unseen  map[types.UID]time.Time // owners that were never seen: since when we wait for them
	evicted []coordinates           // absent, oldest first
}

// coordinates name an object as an owner reference sees it from a namespace.
type coordinates struct {
	namespace, apiVersion, kind, name string
	uid                               types.UID
}

// Add wires the controller. It must be the last one that asks for informers: it uses those that the others have started.
func Add(e *env.Env, workers int) error {
	c := &collector{
		metadata: e.Metadata, recorder: e.Recorder("garbage-collector-controller"), clock: e.Clock, graph: newGraph(),
		started: e.Clock.Now(), absent: map[coordinates]bool{}, unseen: map[types.UID]time.Time{},
	}
	shared, err := sharedInformers(e)
	if err != nil {
		return err
	}
	c.monitors = &monitors{
		discovery: e.Clientset.Discovery(), metadata: e.Metadata, shared: shared, graph: c.graph, attend: c.attend,
		created: e.Created, deleted: e.Deleted,
		running: map[schema.GroupResource]*monitor{}, rescan: make(chan struct{}, 1),
	}
	if err := e.Manager.Add(manager.RunnableFunc(func(ctx context.Context) error {
		c.monitors.run(ctx)
		return nil
	})); err != nil {
		return err
	}
	attach := source.Func(func(_ context.Context, queue env.Queue) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.queue = queue
		for _, uid := range c.early {
			queue.Add(request(uid))
		}
		c.early = nil
		return nil
	})
	return e.Controller("garbage-collector", workers, c.reconcile, env.Raw(attach))
}

// sharedInformers returns the informers that hold all objects of their kind.
func sharedInformers(e *env.Env) (map[schema.GroupVersionKind]toolscache.SharedIndexInformer, error) {
	shared := map[schema.GroupVersionKind]toolscache.SharedIndexInformer{}
	for goType, informer := range e.Whole() {
		obj, ok := reflect.TypeAssert[client.Object](reflect.New(goType.Elem()))
		if !ok {
			continue
		}
		gvks, _, err := e.Manager.GetScheme().ObjectKinds(obj)
		if err != nil {
			return nil, fmt.Errorf("kind of %s: %w", goType, err)
		}
		shared[gvks[0]] = informer
	}
	return shared, nil
}

// A request names an object by its uid alone.
func request(uid types.UID) ctrl.Request {
	return ctrl.Request{NamespacedName: types.NamespacedName{Name: string(uid)}}
}

func (c *collector) attend(uids []types.UID) {
	if len(uids) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue == nil {
		c.early = append(c.early, uids...)
		return
	}
	for _, uid := range uids {
		c.queue.Add(request(uid))
	}
}

// reconcile looks at one object.
func (c *collector) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if _, ok := c.monitors.synced(); !ok && c.clock.Since(c.started) < syncGrace {
		return ctrl.Result{RequeueAfter: syncRetry}, nil
	}
	n := c.graph.node(types.UID(req.Name))
	switch {
	case n == nil:
		return ctrl.Result{}, nil
	case n.deleting && n.orphaning:
		return ctrl.Result{}, c.letGo(ctx, n)
	case n.waiting():
		return ctrl.Result{}, c.finishForeground(ctx, n)
	case n.deleting:
		return ctrl.Result{}, nil
	}
	return c.judge(ctx, n)
}

// judge deletes an object none of whose owners is left.
func (c *collector) judge(ctx context.Context, n *node) (ctrl.Result, error) {
	var solid, dangling, waiting []metav1.OwnerReference
	for _, ref := range n.owners {
		switch c.graph.standingOf(ref, n) {
		case ownerAlive:
			solid = append(solid, ref)
			continue
		case ownerWaiting:
			waiting = append(waiting, ref)
			continue
		case ownerGone:
			dangling = append(dangling, ref)
			continue
		case ownerUnknown:
		}
		if wait := c.patience(ref.UID); wait > 0 {
			return ctrl.Result{RequeueAfter: wait}, nil
		}
		exists, err := c.ownerExists(ctx, n, ref)
		if err != nil {
			return ctrl.Result{}, err
		}
		if exists {
			solid = append(solid, ref)
		} else {
			dangling = append(dangling, ref)
		}
	}
	gone := append(dangling, waiting...)
	switch {
	case len(gone) == 0:
		return ctrl.Result{}, nil
	case len(solid) > 0:
		return ctrl.Result{}, c.setOwners(ctx, n, solid)
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case n.orphaning:
		policy = metav1.DeletePropagationOrphan
	case n.foreground:
		policy = metav1.DeletePropagationForeground
	case len(waiting) > 0 && len(c.graph.dependentsOf(n.uid)) > 0:
		policy = metav1.DeletePropagationForeground
		if err := c.breakCycle(ctx, n); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{}, c.delete(ctx, n, policy)
}

// breakCycle stops the object from blocking its owner if one of its own dependents is already waiting: two objects that own and
// block each other would otherwise wait for ever.
func (c *collector) breakCycle(ctx context.Context, n *node) error {
	for _, dependent := range c.graph.dependentsOf(n.uid) {
		if !dependent.waiting() {
			continue
		}
		owners := make([]metav1.OwnerReference, 0, len(n.owners))
		for _, ref := range n.owners {
			if blocks(ref) {
				ref.BlockOwnerDeletion = new(bool)
			}
			owners = append(owners, ref)
		}
		return c.setOwners(ctx, n, owners)
	}
	return nil
}

// finishForeground lets an object go whose blocking dependents are gone, and otherwise hurries those.
func (c *collector) finishForeground(ctx context.Context, n *node) error {
	var blocking []types.UID
	for _, dependent := range c.graph.dependentsOf(n.uid) {
		for _, ref := range dependent.owners {
			if ref.UID == n.uid && blocks(ref) {
				blocking = append(blocking, dependent.uid)
			}
		}
	}
	if len(blocking) == 0 {
		return c.dropFinalizer(ctx, n, metav1.FinalizerDeleteDependents)
	}
	var attention []types.UID
	for _, uid := range blocking {
		if dependent := c.graph.node(uid); dependent != nil && !dependent.deleting {
			attention = append(attention, uid)
		}
	}
	c.attend(attention)
	return nil
}

// letGo removes an object from the owners of all its dependents before it goes itself.
func (c *collector) letGo(ctx context.Context, n *node) error {
	for _, dependent := range c.graph.dependentsOf(n.uid) {
		if err := c.disown(ctx, dependent, n.uid); err != nil {
			return fmt.Errorf("orphan %s %s: %w", dependent.kind.gvk.Kind, dependent.name, err)
		}
	}
	return c.dropFinalizer(ctx, n, metav1.FinalizerOrphanDependents)
}

func (c *collector) wrongNamespace(n *node, ref metav1.OwnerReference) {
	c.recorder.Eventf(&corev1.ObjectReference{
		APIVersion: n.kind.gvk.GroupVersion().String(), Kind: n.kind.gvk.Kind, Namespace: n.namespace, Name: n.name, UID: n.uid,
	}, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
		ref.APIVersion, ref.Kind, n.namespace, ref.Name, ref.UID, n.namespace)
}
