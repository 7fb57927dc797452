package garbagecollector

import (
	"slices"
	"sync"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// kind is one kind of objects that the collector follows.
type kind struct {
	gvk        schema.GroupVersionKind
	resource   schema.GroupVersionResource
	namespaced bool
}

// node is an object that matters to the collector: it has owners, or its deletion concerns its dependents. All else of an object is
// left to the API server, so the graph stays small.
type node struct {
	kind       *kind
	namespace  string
	name       string
	uid        types.UID
	version    string // resourceVersion, so that what we decide on is what we delete
	owners     []metav1.OwnerReference
	deleting   bool
	foreground bool // has the finalizer that waits for dependents to go
	orphaning  bool // has the finalizer that waits for dependents to be let go
}

// waiting reports whether the node is being deleted in the foreground.
func (n *node) waiting() bool { return n.deleting && n.foreground }

// graph knows which objects live and who depends on whom. It is safe for concurrent use; nodes are replaced, never changed.
type graph struct {
	mu         sync.Mutex
	alive      map[types.UID]place               // all that was seen and not seen to go
	nodes      map[types.UID]*node               // those that matter
	dependents map[types.UID]map[types.UID]*node // owner → dependents, whether the owner was ever seen or not
	gone       map[types.UID]bool                // owners that were seen to go while they had dependents; kept as long as they have
}

// place is where an object lives. There is one for every object of the cluster, so it is two words.
type place struct {
	kind      *kind
	namespace unique.Handle[string]
}

func newGraph() *graph {
	return &graph{
		alive: map[types.UID]place{}, nodes: map[types.UID]*node{}, dependents: map[types.UID]map[types.UID]*node{},
		gone: map[types.UID]bool{},
	}
}

// nodeOf makes a node of what was seen.
func nodeOf(k *kind, obj metav1.Object) *node {
	finalizers := obj.GetFinalizers()
	return &node{
		kind: k, namespace: obj.GetNamespace(), name: obj.GetName(), uid: obj.GetUID(), version: obj.GetResourceVersion(),
		owners:     obj.GetOwnerReferences(),
		deleting:   obj.GetDeletionTimestamp() != nil,
		foreground: slices.Contains(finalizers, metav1.FinalizerDeleteDependents),
		orphaning:  slices.Contains(finalizers, metav1.FinalizerOrphanDependents),
	}
}

// observe records an object as seen and returns the uids that need attention because of it.
func (g *graph) observe(k *kind, obj metav1.Object) []types.UID {
	next := nodeOf(k, obj)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.alive[next.uid] = place{k, unique.Make(next.namespace)}
	old := g.nodes[next.uid]
	g.place(old, next)
	var attention []types.UID
	if old == nil && len(next.owners) > 0 || old != nil && ownersChanged(old.owners, next.owners) {
		attention = append(attention, next.uid) // are its owners there?
	}
	if old != nil {
		attention = append(attention, g.waitingOwners(old)...)
	}
	if next.deleting && (next.foreground || next.orphaning) && (old == nil || !old.deleting || old.foreground != next.foreground || old.orphaning != next.orphaning) {
		attention = append(attention, next.uid)
		if next.foreground {
			attention = append(attention, g.dependentIDs(next.uid)...)
		}
	}
	if old != nil && !old.deleting && next.deleting {
		attention = append(attention, g.waitingOwners(next)...)
	}
	return attention
}

// place puts next in the place of old, in the list of nodes and under each of its owners. Owners that both have are never without
// this dependent meanwhile: that they are gone is remembered only as long as they have one.
func (g *graph) place(old, next *node) {
	if len(next.owners) == 0 && (!next.deleting || !next.foreground && !next.orphaning) {
		delete(g.nodes, next.uid)
	} else {
		g.nodes[next.uid] = next
	}
	for _, owner := range next.owners {
		if g.dependents[owner.UID] == nil {
			g.dependents[owner.UID] = map[types.UID]*node{}
		}
		g.dependents[owner.UID][next.uid] = next
	}
	if old == nil {
		return
	}
	for _, owner := range old.owners {
		if !slices.ContainsFunc(next.owners, func(ref metav1.OwnerReference) bool { return ref.UID == owner.UID }) {
			g.drop(owner.UID, old.uid)
		}
	}
}

func (g *graph) unlink(n *node) {
	for _, owner := range n.owners {
		g.drop(owner.UID, n.uid)
	}
}

// drop forgets that the owner has the dependent, and with its last one that it is gone.
func (g *graph) drop(owner, dependent types.UID) {
	delete(g.dependents[owner], dependent)
	if len(g.dependents[owner]) == 0 {
		delete(g.dependents, owner)
		delete(g.gone, owner)
	}
}

// remove records that an object is gone and returns the uids that need attention because of it.
func (g *graph) remove(uid types.UID) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.alive, uid)
	attention := g.dependentIDs(uid)
	if len(attention) > 0 {
		g.gone[uid] = true
	}
	if n := g.nodes[uid]; n != nil {
		attention = append(attention, g.waitingOwners(n)...)
		g.unlink(n)
		delete(g.nodes, uid)
	}
	return attention
}

// sweep records that of a kind only the objects of present exist, as a fresh list says.
func (g *graph) sweep(k *kind, present map[types.UID]bool) []types.UID {
	g.mu.Lock()
	var lost []types.UID
	for uid, of := range g.alive {
		if of.kind == k && !present[uid] {
			lost = append(lost, uid)
		}
	}
	g.mu.Unlock()
	var attention []types.UID
	for _, uid := range lost {
		attention = append(attention, g.remove(uid)...)
	}
	return attention
}

func (g *graph) dependentIDs(owner types.UID) []types.UID {
	var ids []types.UID
	for uid := range g.dependents[owner] {
		ids = append(ids, uid)
	}
	return ids
}

// waitingOwners returns those owners of a node that wait for their dependents.
func (g *graph) waitingOwners(n *node) []types.UID {
	var ids []types.UID
	for _, ref := range n.owners {
		if owner := g.nodes[ref.UID]; owner != nil && owner.waiting() {
			ids = append(ids, owner.uid)
		}
	}
	return ids
}

// node returns a node, or nil.
func (g *graph) node(uid types.UID) *node {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.nodes[uid]
}

// dependentsOf returns the objects that name uid as an owner.
func (g *graph) dependentsOf(uid types.UID) []*node {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*node, 0, len(g.dependents[uid]))
	for _, n := range g.dependents[uid] {
		out = append(out, n)
	}
	return out
}

// standing is what the graph knows of an owner.
type standing int

const (
	ownerUnknown standing = iota // never seen: it may be gone, or only not seen yet
	ownerAlive
	ownerWaiting // being deleted in the foreground
	ownerGone    // seen to go
)

// standingOf returns what is known of the owner that a dependent names. An object of that uid but of another kind or namespace than the
// reference means is none: the API server is asked for what it does mean.
func (g *graph) standingOf(ref metav1.OwnerReference, dependent *node) standing {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, alive := g.alive[ref.UID]
	switch {
	case !alive && g.gone[ref.UID]:
		return ownerGone
	case !alive || !at.meant(ref, dependent):
		return ownerUnknown
	}
	if n := g.nodes[ref.UID]; n != nil && n.waiting() {
		return ownerWaiting
	}
	return ownerAlive
}

// meant reports whether an owner reference of a dependent can mean an object at this place.
func (p place) meant(ref metav1.OwnerReference, dependent *node) bool {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil || gv.Group != p.kind.gvk.Group || ref.Kind != p.kind.gvk.Kind {
		return false
	}
	return !p.kind.namespaced || p.namespace.Value() == dependent.namespace
}

func ownersChanged(a, b []metav1.OwnerReference) bool {
	return !slices.EqualFunc(a, b, func(x, y metav1.OwnerReference) bool { return x.UID == y.UID && blocks(x) == blocks(y) })
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}
