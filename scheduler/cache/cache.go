// Package cache holds the scheduler's view of nodes and assigned pods. Pods that the scheduler has placed but whose binding the
// API server has not confirmed are in it too ("assumed"), so that the next decision already counts them.
package cache

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
)

// Cache is safe for concurrent use. A pod in it is either assumed or confirmed:
//
//	(none) --Assume--> assumed --AddPod (seen bound)--> confirmed --RemovePod--> (none)
//	                      |--Forget (binding failed)--> (none)
type Cache struct {
	mu     sync.RWMutex
	nodes  map[string]*nodeinfo.NodeInfo
	pods   map[types.UID]*podEntry
	images map[string]*fwk.ImageStateSummary
	// dirty names the nodes that changed since the last snapshot.
	dirty sets.Set[string]
}

type podEntry struct {
	info    fwk.PodInfo
	node    string
	assumed bool
}

// New returns an empty cache.
func New() *Cache {
	return &Cache{
		nodes:  map[string]*nodeinfo.NodeInfo{},
		pods:   map[types.UID]*podEntry{},
		images: map[string]*fwk.ImageStateSummary{},
		dirty:  sets.New[string](),
	}
}

// Assume places a pod on a node before the API server knows of it.
func (c *Cache) Assume(info fwk.PodInfo, node string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod := info.GetPod()
	if _, ok := c.pods[pod.UID]; ok {
		return fmt.Errorf("pod %s is in the cache already, so it cannot be assumed", klog.KObj(pod))
	}
	c.put(&podEntry{info: info, node: node, assumed: true})
	return nil
}

// Forget takes back an assumed pod. It is a no-op for a pod that has been confirmed meanwhile or is not known.
func (c *Cache) Forget(pod *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.pods[pod.UID]; ok && e.assumed {
		c.drop(e)
	}
}

// IsAssumed says whether the pod is placed and not yet confirmed.
func (c *Cache) IsAssumed(uid types.UID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.pods[uid]
	return ok && e.assumed
}

// SetPod records a bound pod as the API server shows it, new or changed, and confirms it if it was assumed.
func (c *Cache) SetPod(info fwk.PodInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod := info.GetPod()
	if e, ok := c.pods[pod.UID]; ok {
		c.drop(e)
	}
	c.put(&podEntry{info: info, node: pod.Spec.NodeName})
}

// RemovePod removes a pod that was deleted or has ended.
func (c *Cache) RemovePod(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.pods[uid]; ok {
		c.drop(e)
	}
}

// SetNode records a node, new or changed.
func (c *Cache) SetNode(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.node(node.Name)
	c.dropImages(n)
	n.SetNode(node)
	n.SetImages(c.addImages(node))
	c.dirty.Insert(node.Name)
}

// RemoveNode removes a node. Its pods stay until they are removed themselves.
func (c *Cache) RemoveNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[name]
	if !ok {
		return
	}
	c.dropImages(n)
	n.RemoveNode()
	c.dirty.Insert(name)
	if len(n.GetPods()) == 0 {
		delete(c.nodes, name)
	}
}

// UpdateSnapshot brings a snapshot up to date. Its cost follows from what changed, not from the size of the cluster, except that
// nodes which come or go have the list rebuilt.
func (c *Cache) UpdateSnapshot(s *Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	relist, index := false, false
	for name := range c.dirty {
		n, ok := c.nodes[name]
		old, had := s.nodes[name]
		if !ok || n.Node() == nil {
			delete(s.nodes, name)
			relist = relist || had
			continue
		}
		if !had {
			s.nodes[name] = n.Clone()
			relist = true
			continue
		}
		relist = relist || zoneOf(old.Node()) != zoneOf(n.Node())
		index = index || indexed(old) || indexed(n)
		*old = *n.Clone() // in place: the lists point to it
	}
	c.dirty.Clear()
	if relist {
		s.relist()
	}
	if relist || index {
		s.index()
	}
}

// indexed says whether a node stands in one of the snapshot's derived lists.
func indexed(n *nodeinfo.NodeInfo) bool {
	return len(n.GetPodsWithAffinity()) > 0 || len(n.GetPVCRefCounts()) > 0
}

func (c *Cache) node(name string) *nodeinfo.NodeInfo {
	n, ok := c.nodes[name]
	if !ok {
		n = nodeinfo.New()
		c.nodes[name] = n
	}
	return n
}

func (c *Cache) put(e *podEntry) {
	c.pods[e.info.GetPod().UID] = e
	c.node(e.node).AddPodInfo(e.info)
	c.dirty.Insert(e.node)
}

func (c *Cache) drop(e *podEntry) {
	delete(c.pods, e.info.GetPod().UID)
	n := c.nodes[e.node]
	_ = n.RemovePod(klog.Logger{}, e.info.GetPod()) // put added it
	c.dirty.Insert(e.node)
	if n.Node() == nil && len(n.GetPods()) == 0 {
		delete(c.nodes, e.node)
	}
}

// addImages returns the summaries of a node's images, creating those that no other node has.
func (c *Cache) addImages(node *corev1.Node) map[string]*fwk.ImageStateSummary {
	out := map[string]*fwk.ImageStateSummary{}
	for _, image := range node.Status.Images {
		for _, name := range image.Names {
			state, ok := c.images[name]
			if !ok {
				state = &fwk.ImageStateSummary{Size: image.SizeBytes, Nodes: sets.New[string]()}
				c.images[name] = state
			}
			state.Nodes.Insert(node.Name)
			out[name] = state
		}
	}
	return out
}

func (c *Cache) dropImages(n *nodeinfo.NodeInfo) {
	if n.Node() == nil {
		return
	}
	for name, state := range n.GetImageStates() {
		state.Nodes.Delete(n.Node().Name)
		if state.Nodes.Len() == 0 {
			delete(c.images, name)
		}
	}
}
