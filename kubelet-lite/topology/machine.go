package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/google/cadvisor/lib/model"
	"github.com/google/cadvisor/lib/utils/sysfs"
	"github.com/google/cadvisor/lib/utils/sysinfo"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/cpuset"
)

// Machine is how the processors and the memory of a machine lie together.
type Machine struct {
	CPUs  []CPU        // those that are online, by ID
	Nodes []model.Node // its NUMA nodes, by ID; at least one
}

// CPU is a hardware thread and what it is part of. Cores are named after their first CPU.
type CPU struct{ ID, Core, Cache, Socket, Node int }

// ReadMachine asks the kernel. A machine without NUMA has one node, with all of the memory: so many bytes.
func ReadMachine(memory int64) (Machine, error) {
	nodes, _, err := sysinfo.GetNodesInfo(sysfs.NewRealSysFs())
	if err != nil {
		return Machine{}, fmt.Errorf("topology of the machine: %w", err)
	}
	if len(nodes) == 1 && nodes[0].Memory == 0 {
		nodes[0].Memory = uint64(memory)
	}
	return NewMachine(nodes), nil
}

// NewMachine puts in order what cadvisor found.
func NewMachine(nodes []model.Node) Machine {
	m := Machine{Nodes: slices.SortedFunc(slices.Values(nodes), func(a, b model.Node) int { return a.Id - b.Id })}
	for _, n := range m.Nodes {
		for _, core := range n.Cores {
			cache := -1 - core.SocketID // without any, those of a socket belong together
			if len(core.UncoreCaches) > 0 {
				cache = core.UncoreCaches[0].Id
			}
			for _, id := range core.Threads {
				m.CPUs = append(m.CPUs, CPU{ID: id, Core: slices.Min(core.Threads), Cache: cache, Socket: core.SocketID, Node: n.Id})
			}
		}
	}
	slices.SortFunc(m.CPUs, func(a, b CPU) int { return cmp.Compare(a.ID, b.ID) })
	return m
}

// memory is what a node has, in bytes: huge pages by their size, and all else.
func memory(n model.Node) map[corev1.ResourceName]int64 {
	out := map[corev1.ResourceName]int64{corev1.ResourceMemory: int64(n.Memory)}
	for _, pool := range n.HugePages {
		size := resource.NewQuantity(int64(pool.PageSize)<<10, resource.BinarySI)
		bytes := int64(pool.PageSize*pool.NumPages) << 10
		out[corev1.ResourceName(corev1.ResourceHugePagesPrefix+size.String())] = bytes
		out[corev1.ResourceMemory] -= bytes
	}
	return out
}

func isMemory(name corev1.ResourceName) bool {
	return name == corev1.ResourceMemory || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// where are the CPUs of which f holds.
func (m *Machine) where(f func(CPU) bool) cpuset.CPUSet {
	var ids []int
	for _, c := range m.CPUs {
		if f(c) {
			ids = append(ids, c.ID)
		}
	}
	return cpuset.New(ids...)
}

func (m *Machine) all() cpuset.CPUSet { return m.where(func(CPU) bool { return true }) }

// cpusOf are the CPUs of some nodes.
func (m *Machine) cpusOf(n Nodes) cpuset.CPUSet {
	return m.where(func(c CPU) bool { return n&node(c.Node) != 0 })
}

// nodes are the IDs of all nodes.
func (m *Machine) nodes() (ids []int) {
	for _, n := range m.Nodes {
		ids = append(ids, n.Id)
	}
	return ids
}
