package garbagecollector

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

func object(uid types.UID, owners ...types.UID) *metav1.PartialObjectMetadata {
	obj := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{UID: uid, Name: string(uid)}}
	for _, owner := range owners {
		obj.OwnerReferences = append(obj.OwnerReferences, metav1.OwnerReference{UID: owner, BlockOwnerDeletion: new(true)})
	}
	return obj
}

func deleting(obj *metav1.PartialObjectMetadata, finalizer string) *metav1.PartialObjectMetadata {
	obj.DeletionTimestamp = new(metav1.Now())
	obj.Finalizers = []string{finalizer}
	return obj
}

func distinct(uids []types.UID) []types.UID {
	sorted := slices.Sorted(slices.Values(uids))
	return slices.Compact(sorted)
}

func TestGraphAttention(t *testing.T) {
	k := &kind{}
	build := func(objs ...*metav1.PartialObjectMetadata) *graph {
		g := newGraph()
		for _, obj := range objs {
			g.observe(k, obj)
		}
		return g
	}
	cases := map[string]struct {
		graph  *graph
		change func(*graph) []types.UID
		want   []types.UID
	}{
		"an object without owners concerns nobody": {build(), func(g *graph) []types.UID { return g.observe(k, object("a")) }, nil},
		"a new dependent is looked at":             {build(), func(g *graph) []types.UID { return g.observe(k, object("b", "a")) }, []types.UID{"b"}},
		"an update that changes no owner is not":   {build(object("b", "a")), func(g *graph) []types.UID { return g.observe(k, object("b", "a")) }, nil},
		"dependents of a deleted owner":            {build(object("a"), object("b", "a"), object("c", "a")), func(g *graph) []types.UID { return g.remove("a") }, []types.UID{"b", "c"}},
		"a foreground deletion and its dependents": {
			build(object("a"), object("b", "a")),
			func(g *graph) []types.UID {
				return g.observe(k, deleting(object("a"), metav1.FinalizerDeleteDependents))
			},
			[]types.UID{"a", "b"},
		},
		"an orphaning deletion": {
			build(object("a"), object("b", "a")),
			func(g *graph) []types.UID {
				return g.observe(k, deleting(object("a"), metav1.FinalizerOrphanDependents))
			},
			[]types.UID{"a"},
		},
		"the last dependent of a waiting owner": {
			build(object("b", "a"), deleting(object("a"), metav1.FinalizerDeleteDependents)),
			func(g *graph) []types.UID { return g.remove("b") },
			[]types.UID{"a"},
		},
		"a list that no longer names the owner": {
			build(object("a"), object("b", "a")),
			func(g *graph) []types.UID { return g.sweep(k, map[types.UID]bool{"b": true}) },
			[]types.UID{"b"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, distinct(tc.change(tc.graph))); diff != "" {
				t.Errorf("attention (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGraphForgets(t *testing.T) {
	g, k := newGraph(), &kind{}
	g.observe(k, object("a"))
	g.observe(k, object("b", "a"))
	if got := g.standingOf(metav1.OwnerReference{UID: "a"}, &node{}); got != ownerAlive {
		t.Errorf("standing of a living owner = %v", got)
	}
	g.remove("a")
	if got := g.standingOf(metav1.OwnerReference{UID: "a"}, &node{}); got != ownerGone {
		t.Errorf("standing of a deleted owner = %v", got)
	}
	g.remove("b")
	if len(g.alive)+len(g.nodes)+len(g.dependents)+len(g.gone) != 0 {
		t.Errorf("the graph keeps %v %v %v %v", g.alive, g.nodes, g.dependents, g.gone)
	}
}

func TestStandingOf(t *testing.T) {
	sets := &kind{gvk: schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}, namespaced: true}
	nodes := &kind{gvk: schema.GroupVersionKind{Version: "v1", Kind: "Node"}}
	g := newGraph()
	set := object("set")
	set.Namespace = "here"
	g.observe(sets, set)
	g.observe(nodes, object("node"))
	cases := map[string]struct {
		apiVersion, kind string
		uid              types.UID
		namespace        string
		want             standing
	}{
		"as it is":              {"apps/v1", "ReplicaSet", "set", "here", ownerAlive},
		"another version":       {"apps/v1beta1", "ReplicaSet", "set", "here", ownerAlive},
		"another namespace":     {"apps/v1", "ReplicaSet", "set", "there", ownerUnknown},
		"another kind":          {"apps/v1", "Deployment", "set", "here", ownerUnknown},
		"another group":         {"v1", "ReplicaSet", "set", "here", ownerUnknown},
		"without a namespace":   {"v1", "Node", "node", "here", ownerAlive},
		"never seen":            {"v1", "Node", "other", "", ownerUnknown},
		"an unreadable version": {"a/b/c", "Node", "node", "", ownerUnknown},
		"of the whole cluster":  {"apps/v1", "ReplicaSet", "set", "", ownerUnknown},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ref := metav1.OwnerReference{APIVersion: tc.apiVersion, Kind: tc.kind, UID: tc.uid}
			if got := g.standingOf(ref, &node{namespace: tc.namespace}); got != tc.want {
				t.Errorf("standing = %v, want %v", got, tc.want)
			}
		})
	}
}

// An update of a dependent, such as its status, must not make its owner's end forgotten.
func TestGoneOwnerStaysGoneThroughUpdates(t *testing.T) {
	k := &kind{}
	g := newGraph()
	dependent := object("b", "a")
	g.observe(k, object("a"))
	g.observe(k, dependent)
	g.remove("a")
	for range 2 {
		got := g.standingOf(dependent.OwnerReferences[0], g.node("b"))
		if got != ownerGone {
			t.Errorf("standing of the deleted owner: %v, want %v", got, ownerGone)
		}
		g.observe(k, dependent) // its status was written meanwhile
	}
	g.remove("b")
	if len(g.gone) != 0 {
		t.Errorf("an owner without dependents is remembered: %v", g.gone)
	}
}
