package topology

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Block is what a container has of one kind of memory, in bytes, together on some nodes.
type Block struct {
	Nodes []int               `json:"numaAffinity"`
	Type  corev1.ResourceName `json:"type"`
	Size  int64               `json:"size"`
}

// memoryState says who has memory. A node gives either to containers that have all of theirs there, or to those that have it on the very
// same nodes (KEP-1769).
type memoryState struct {
	machine  *Machine
	reserved map[int]map[corev1.ResourceName]int64 // by node: not for pods
	held     map[types.UID]map[string][]Block      // by container
}

// allocatable is what pods can have of the given nodes.
func (s *memoryState) allocatable(on Nodes, kind corev1.ResourceName) (sum int64) {
	for _, n := range s.machine.Nodes {
		if on&node(n.Id) != 0 {
			sum += memory(n)[kind] - s.reserved[n.Id][kind]
		}
	}
	return sum
}

// free is what is left of it, negative if others have the nodes in a way that excludes this.
func (s *memoryState) free(on Nodes, kind corev1.ResourceName) int64 {
	left := s.allocatable(on, kind)
	for _, containers := range s.held {
		for _, blocks := range containers {
			for _, b := range blocks {
				switch other := nodesOf(b.Nodes); {
				case other == on && b.Type == kind:
					left -= b.Size
				case other != on && other&on != 0:
					return -1
				}
			}
		}
	}
	return left
}

// hints are the nodes that could give the request; reuse are blocks of the pod's earlier containers that are free again by then.
func (s *memoryState) hints(request map[corev1.ResourceName]int64, reuse []Block) []Hint {
	each := func(have func(corev1.ResourceName) int64) bool {
		for kind, want := range request {
			if have(kind) < want {
				return false
			}
		}
		return true
	}
	return Hints(s.machine.nodes(),
		func(on Nodes) bool {
			return each(func(kind corev1.ResourceName) int64 { return s.allocatable(on, kind) })
		},
		func(on Nodes) bool {
			return each(func(kind corev1.ResourceName) int64 {
				left := s.free(on, kind)
				for _, b := range reuse {
					if left >= 0 && nodesOf(b.Nodes) == on && b.Type == kind {
						left += b.Size
					}
				}
				return left
			})
		})
}

// take chooses the nodes that give the request: those that are hinted at, or more if they have not enough.
func (s *memoryState) take(request map[corev1.ResourceName]int64, reuse []Block, near Hint) ([]Block, error) {
	hints := slices.DeleteFunc(s.hints(request, reuse), func(h Hint) bool { return h.Nodes&near.Nodes != near.Nodes })
	if len(hints) == 0 && near.Nodes == 0 {
		return nil, errors.New("[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")
	}
	if len(hints) == 0 {
		return nil, errors.New("[memorymanager] failed to find NUMA nodes to extend the current topology hint")
	}
	best := slices.MinFunc(hints, func(a, b Hint) int {
		return cmp.Or(cmp.Compare(a.Nodes.count(), b.Nodes.count()), cmp.Compare(a.Nodes, b.Nodes))
	})
	if near.Preferred && !best.Preferred {
		return nil, errors.New("[memorymanager] failed to find the extended preferred hint") // or the default one
	}
	var out []Block
	for _, kind := range slices.Sorted(maps.Keys(request)) {
		out = append(out, Block{Nodes: best.Nodes.IDs(), Type: kind, Size: request[kind]})
	}
	return out, nil
}

// inherit shrinks the blocks of containers that have ended by what their successors have of it: it counts once.
func inherit(ended [][]Block, blocks []Block) {
	for _, b := range blocks {
		left := b.Size
		for _, old := range ended {
			for i := range old {
				if old[i].Type == b.Type && nodesOf(old[i].Nodes) == nodesOf(b.Nodes) {
					used := min(old[i].Size, left)
					old[i].Size -= used
					left -= used
				}
			}
		}
	}
}
