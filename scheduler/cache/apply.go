package cache

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
)

// apply takes changes over. Nodes that come, go or move to another zone have the list made anew.
func (s *Snapshot) apply(changes []change) {
	relist := false
	for _, c := range changes {
		switch c.kind {
		case nodeSet:
			relist = s.setNode(c.node) || relist
		case nodeRemoved:
			relist = s.removeNode(c.name) || relist
		case podReplaced:
			s.node(c.name).ReplacePod(c.pod)
		case podAdded:
			s.changePods(c, func(n *nodeinfo.NodeInfo) { n.AddPodInfo(c.pod) })
		case podRemoved:
			// It was added before, so it is there.
			s.changePods(c, func(n *nodeinfo.NodeInfo) { _ = n.RemovePod(klog.Logger{}, c.pod.GetPod()) })
		}
	}
	if relist {
		s.relist()
		s.stale = true
	}
}

func (s *Snapshot) node(name string) *nodeinfo.NodeInfo {
	n, ok := s.nodes[name]
	if !ok {
		n = nodeinfo.New()
		s.nodes[name] = n
	}
	return n
}

func (s *Snapshot) changePods(c change, do func(*nodeinfo.NodeInfo)) {
	n := s.node(c.name)
	s.countClaims(n, -1)
	do(n)
	s.countClaims(n, 1)
	s.stale = s.stale || hasTerms(c.pod)
	s.table.PodsChanged(c.name)
	if n.Node() == nil && len(n.GetPods()) == 0 {
		delete(s.nodes, c.name)
	}
}

func hasTerms(p fwk.PodInfo) bool {
	return len(p.GetRequiredAffinityTerms())+len(p.GetRequiredAntiAffinityTerms())+
		len(p.GetPreferredAffinityTerms())+len(p.GetPreferredAntiAffinityTerms()) > 0
}

func (s *Snapshot) countClaims(n *nodeinfo.NodeInfo, sign int) {
	for key := range n.GetPVCRefCounts() {
		s.claims[key] += sign
		if s.claims[key] == 0 {
			delete(s.claims, key)
		}
	}
}

// setNode returns whether the order of the nodes may have changed.
func (s *Snapshot) setNode(node *corev1.Node) bool {
	n := s.node(node.Name)
	moved := n.Node() == nil || zoneOf(n.Node()) != zoneOf(node)
	before := n.GetImageStates()
	n.SetNode(node)
	n.SetImages(s.addImages(node))
	s.dropImages(node.Name, before, n.GetImageStates())
	s.table.SetNode(n)
	return moved
}

func (s *Snapshot) removeNode(name string) bool {
	n, ok := s.nodes[name]
	if !ok || n.Node() == nil {
		return false
	}
	s.dropImages(name, n.GetImageStates(), nil)
	n.RemoveNode()
	s.table.RemoveNode(name)
	if len(n.GetPods()) == 0 {
		delete(s.nodes, name)
	}
	return true
}

// addImages returns the summaries of a node's images, creating those that no other node has.
func (s *Snapshot) addImages(node *corev1.Node) map[string]*fwk.ImageStateSummary {
	out := make(map[string]*fwk.ImageStateSummary, len(node.Status.Images))
	for _, image := range node.Status.Images {
		for _, name := range image.Names {
			state, ok := s.table.Images[name]
			if !ok {
				state = &fwk.ImageStateSummary{Size: image.SizeBytes, Nodes: sets.New[string]()}
				s.table.Images[name] = state
			}
			state.Nodes.Insert(node.Name)
			state.NumNodes = state.Nodes.Len()
			out[name] = state
		}
	}
	return out
}

// dropImages takes a node from the images that it held and holds no more.
func (s *Snapshot) dropImages(node string, before, now map[string]*fwk.ImageStateSummary) {
	for name, state := range before {
		if _, still := now[name]; still {
			continue
		}
		state.Nodes.Delete(node)
		state.NumNodes = state.Nodes.Len()
		if state.NumNodes == 0 {
			delete(s.table.Images, name)
		}
	}
}
