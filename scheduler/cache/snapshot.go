package cache

import (
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
	"keelson.dev/scheduler/nodeinfo"
)

// Snapshot is the cluster as one scheduling cycle sees it. Only the scheduling loop updates it, between cycles.
type Snapshot struct {
	// nodes holds also those that have gone and whose pods have not.
	nodes map[string]*nodeinfo.NodeInfo
	table *columns.Table
	// list orders the nodes so that neighbours are in different zones: a scan that stops early has still seen every zone.
	list   []fwk.NodeInfo
	claims map[string]int // how many nodes have pods that use a claim

	mu               sync.Mutex // guards the lists below, which are made when they are asked for
	stale            bool
	withAffinity     []fwk.NodeInfo
	withAntiAffinity []fwk.NodeInfo

	spare     []change
	mutations *mutations
}

// mutations is what EndMutations restores.
type mutations struct{ before map[string]*nodeinfo.NodeInfo }

// NewSnapshot returns an empty snapshot.
func NewSnapshot() *Snapshot {
	return &Snapshot{nodes: map[string]*nodeinfo.NodeInfo{}, table: columns.NewTable(), claims: map[string]int{}}
}

// Table returns the nodes as columns.
func (s *Snapshot) Table() *columns.Table { return s.table }

// NodeInfos implements fwk.SharedLister.
func (s *Snapshot) NodeInfos() fwk.NodeInfoLister { return s }

// StorageInfos implements fwk.SharedLister.
func (s *Snapshot) StorageInfos() fwk.StorageInfoLister { return s }

// PodGroupStates implements fwk.SharedLister. Pod groups are behind a gate that is off by default.
func (s *Snapshot) PodGroupStates() fwk.PodGroupStateLister { return nil }

// PodGroups implements fwk.SharedLister.
func (s *Snapshot) PodGroups() fwk.PodGroupLister { return nil }

// CompositePodGroupStates implements fwk.SharedLister.
func (s *Snapshot) CompositePodGroupStates() fwk.CompositePodGroupStateLister { return nil }

// CompositePodGroups implements fwk.SharedLister.
func (s *Snapshot) CompositePodGroups() fwk.CompositePodGroupLister { return nil }

// List implements fwk.NodeInfoLister.
func (s *Snapshot) List() ([]fwk.NodeInfo, error) { return s.list, nil }

// HavePodsWithAffinityList implements fwk.NodeInfoLister.
func (s *Snapshot) HavePodsWithAffinityList() ([]fwk.NodeInfo, error) {
	s.index()
	return s.withAffinity, nil
}

// HavePodsWithRequiredAntiAffinityList implements fwk.NodeInfoLister.
func (s *Snapshot) HavePodsWithRequiredAntiAffinityList() ([]fwk.NodeInfo, error) {
	s.index()
	return s.withAntiAffinity, nil
}

// HavePodsWithRequiredNonHostScopedAntiAffinityList implements fwk.NodeInfoLister.
func (s *Snapshot) HavePodsWithRequiredNonHostScopedAntiAffinityList() ([]fwk.NodeInfo, error) {
	return nil, nil
}

// Get implements fwk.NodeInfoLister.
func (s *Snapshot) Get(name string) (fwk.NodeInfo, error) {
	if n, ok := s.nodes[name]; ok && n.Node() != nil {
		return n, nil
	}
	return nil, fmt.Errorf("nodeinfo not found for node name %q", name)
}

// NumNodes returns how many nodes the snapshot holds.
func (s *Snapshot) NumNodes() int { return len(s.list) }

// IsPVCUsedByPods implements fwk.StorageInfoLister.
func (s *Snapshot) IsPVCUsedByPods(key string) bool { return s.claims[key] > 0 }

// StartMutations implements fwk.MutableSnapshotSharedLister.
func (s *Snapshot) StartMutations() error {
	if s.mutations != nil {
		return fmt.Errorf("snapshot is already being mutated")
	}
	s.mutations = &mutations{before: map[string]*nodeinfo.NodeInfo{}}
	return nil
}

// EndMutations implements fwk.MutableSnapshotSharedLister.
func (s *Snapshot) EndMutations() error {
	if s.mutations == nil {
		return fmt.Errorf("snapshot is not being mutated")
	}
	for name, before := range s.mutations.before {
		s.countClaims(s.nodes[name], -1)
		*s.nodes[name] = *before
		s.countClaims(s.nodes[name], 1)
	}
	s.mutations, s.stale = nil, true
	return nil
}

// AddPod implements fwk.MutableSnapshotSharedLister.
func (s *Snapshot) AddPod(info fwk.PodInfo, nodeName string) error {
	n, err := s.mutable(nodeName)
	if err != nil {
		return err
	}
	s.countClaims(n, -1)
	n.AddPodInfo(info)
	s.countClaims(n, 1)
	s.stale = true
	return nil
}

// RemovePod implements fwk.MutableSnapshotSharedLister.
func (s *Snapshot) RemovePod(logger klog.Logger, pod *corev1.Pod, nodeName string) error {
	n, err := s.mutable(nodeName)
	if err != nil {
		return err
	}
	s.countClaims(n, -1)
	defer s.countClaims(n, 1)
	s.stale = true
	return n.RemovePod(logger, pod)
}

func (s *Snapshot) mutable(nodeName string) (*nodeinfo.NodeInfo, error) {
	n, ok := s.nodes[nodeName]
	if !ok || s.mutations == nil {
		return nil, fmt.Errorf("node %q cannot be changed in the snapshot", nodeName)
	}
	if _, saved := s.mutations.before[nodeName]; !saved {
		s.mutations.before[nodeName] = n.Clone()
	}
	return n, nil
}

// relist rebuilds the node order after nodes came, went or changed zone.
func (s *Snapshot) relist() {
	zones := map[string][]fwk.NodeInfo{}
	for _, n := range s.nodes {
		if n.Node() == nil {
			continue
		}
		zone := zoneOf(n.Node())
		zones[zone] = append(zones[zone], n)
	}
	names := make([]string, 0, len(zones))
	for zone, nodes := range zones {
		names = append(names, zone)
		slices.SortFunc(nodes, func(a, b fwk.NodeInfo) int { return compare(a.Node().Name, b.Node().Name) })
	}
	slices.Sort(names)
	s.list = make([]fwk.NodeInfo, 0, s.table.Count())
	for i := 0; len(s.list) < s.table.Count(); i++ {
		for _, zone := range names {
			if i < len(zones[zone]) {
				s.list = append(s.list, zones[zone][i])
			}
		}
	}
}

// index makes the lists that are derived from the nodes' pods, if those have changed.
func (s *Snapshot) index() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stale {
		return
	}
	s.stale = false
	s.withAffinity, s.withAntiAffinity = nil, nil
	for _, n := range s.list {
		if len(n.GetPodsWithAffinity()) > 0 {
			s.withAffinity = append(s.withAffinity, n)
		}
		if len(n.GetPodsWithRequiredAntiAffinity()) > 0 {
			s.withAntiAffinity = append(s.withAntiAffinity, n)
		}
	}
}

func zoneOf(node *corev1.Node) string {
	return node.Labels[corev1.LabelTopologyRegion] + "/" + node.Labels[corev1.LabelTopologyZone]
}

func compare(a, b string) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}
