// Package cache holds the scheduler's view of nodes and assigned pods: the cache takes what the watches tell, on their goroutines; the
// snapshot takes it over between the cycles, change by change. Pods that the scheduler has placed but whose binding the
// API server has not confirmed are in it too ("assumed"), so that the next decision already counts them.
package cache

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
)

// Cache is safe for concurrent use. A pod in it is either assumed or confirmed:
//
//	(none) --Assume--> assumed --AddPod (seen bound)--> confirmed --RemovePod--> (none)
//	                      |--Forget (binding failed)--> (none)
type Cache struct {
	mu   sync.RWMutex
	pods map[types.UID]*podEntry
	// changes are what a snapshot has yet to take over, oldest first.
	changes []change
}

type podEntry struct {
	info    fwk.PodInfo
	node    string
	assumed bool
}

type change struct {
	kind changeKind
	name string // of the node
	node *corev1.Node
	pod  fwk.PodInfo
}

type changeKind int

const (
	nodeSet changeKind = iota
	nodeRemoved
	podAdded
	podReplaced
	podRemoved
)

// New returns an empty cache.
func New() *Cache { return &Cache{pods: map[types.UID]*podEntry{}} }

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

// Pod returns what is known of a placed pod, or nil.
func (c *Cache) Pod(uid types.UID) *nodeinfo.PodInfo {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if e, ok := c.pods[uid]; ok {
		info, _ := e.info.(*nodeinfo.PodInfo)
		return info
	}
	return nil
}

// SetPod records a bound pod as the API server shows it, new or changed, and confirms it if it was assumed.
func (c *Cache) SetPod(info *nodeinfo.PodInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod := info.GetPod()
	entry := &podEntry{info: info, node: pod.Spec.NodeName}
	e, ok := c.pods[pod.UID]
	if old, mine := entryInfo(e); ok && mine && e.node == entry.node && old.CountsAs(info) {
		c.pods[pod.UID] = entry
		c.changes = append(c.changes, change{kind: podReplaced, name: entry.node, pod: info})
		return
	}
	if ok {
		c.drop(e)
	}
	c.put(entry)
}

func entryInfo(e *podEntry) (*nodeinfo.PodInfo, bool) {
	if e == nil {
		return nil, false
	}
	info, ok := e.info.(*nodeinfo.PodInfo)
	return info, ok
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
	c.changes = append(c.changes, change{kind: nodeSet, name: node.Name, node: node})
}

// RemoveNode removes a node. Its pods stay until they are removed themselves.
func (c *Cache) RemoveNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes = append(c.changes, change{kind: nodeRemoved, name: name})
}

// Behind returns how many changes a snapshot has yet to take over.
func (c *Cache) Behind() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.changes)
}

// UpdateSnapshot brings the snapshot up to date. There is one snapshot; its cost follows from what changed, not from the size of the
// cluster.
func (c *Cache) UpdateSnapshot(s *Snapshot) {
	c.mu.Lock()
	changes := c.changes
	c.changes = s.spare[:0]
	c.mu.Unlock()
	s.apply(changes)
	clear(changes) // lets go of the objects
	s.spare = changes
}

func (c *Cache) put(e *podEntry) {
	c.pods[e.info.GetPod().UID] = e
	c.changes = append(c.changes, change{kind: podAdded, name: e.node, pod: e.info})
}

func (c *Cache) drop(e *podEntry) {
	delete(c.pods, e.info.GetPod().UID)
	c.changes = append(c.changes, change{kind: podRemoved, name: e.node, pod: e.info})
}
