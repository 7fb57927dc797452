package topology

import (
	"cmp"
	"iter"
	"maps"
	"math/bits"
	"slices"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// Nodes is a set of NUMA nodes: bit n stands for node n.
type Nodes uint64

func node(id int) Nodes { return 1 << id }

func nodesOf(ids []int) (out Nodes) {
	for _, id := range ids {
		out |= node(id)
	}
	return out
}

func (n Nodes) count() int { return bits.OnesCount64(uint64(n)) }

// IDs are the set's members, in order.
func (n Nodes) IDs() (out []int) {
	for ; n != 0; n &= n - 1 {
		out = append(out, bits.TrailingZeros64(uint64(n)))
	}
	return out
}

// Hint is a set of nodes that could give something together; none at all stands for wherever it may be. It is preferred if no fewer nodes
// could ever give it.
type Hint struct {
	Nodes     Nodes
	Preferred bool
}

// subsets yields every set of some of the list's members, small ones first, sets of one size in the list's order.
func subsets(list []int) iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		var choose func(have, rest []int, n int) bool
		choose = func(have, rest []int, n int) bool {
			if n == 0 {
				return yield(slices.Clone(have))
			}
			for i := 0; i+n <= len(rest); i++ {
				if !choose(append(have, rest[i]), rest[i+1:], n-1) {
					return false
				}
			}
			return true
		}
		for n := 1; n <= len(list) && choose(nil, list, n); n++ {
		}
	}
}

// Hints are the sets of nodes that have enough, whatever it is: owns tells whether a set could ever give it, and has whether it can now.
func Hints(nodes []int, owns, has func(Nodes) bool) []Hint {
	out, least := []Hint{}, len(nodes)
	for ids := range subsets(nodes) {
		n := nodesOf(ids)
		if owns(n) {
			least = min(least, n.count())
		}
		if has(n) {
			out = append(out, Hint{Nodes: n})
		}
	}
	for i := range out {
		out[i].Preferred = out[i].Nodes.count() == least
	}
	return out
}

// policy is the topology manager's.
type policy struct {
	name    string
	closest bool // of sets of one size, that whose nodes are near each other
	machine *Machine
}

// merge finds the best set of nodes for resources of which each has a list of hints, and tells whether a pod may run with that. A list with
// nothing in it is of a resource that cannot be had.
//
// Nodes are preferred that every resource prefers. Else it is the common part of any hints, one of each resource, best of as many nodes as
// the resource needs that needs most.
func (p policy) merge(lists [][]Hint) (Hint, bool) {
	single := p.name == kubeletconfig.SingleNumaNodeTopologyManagerPolicy
	all := nodesOf(p.machine.nodes())
	common, agreed, most := map[Nodes]bool{all: true}, map[Nodes]bool{}, 0
	for i, list := range lists {
		parts, preferred, least := map[Nodes]bool{}, map[Nodes]bool{}, 0
		for _, h := range list {
			if single && (!h.Preferred || h.Nodes.count() > 1) {
				continue
			}
			if h.Preferred && (i == 0 || agreed[h.Nodes]) {
				preferred[h.Nodes] = true
			}
			if least == 0 || h.Nodes.count() < least {
				least = h.Nodes.count()
			}
			for n := range common {
				parts[n&h.Nodes] = true
			}
		}
		if agreed, most = preferred, max(most, least); len(parts) > 0 {
			common = parts
		}
	}
	best := Hint{Nodes: all, Preferred: len(lists) == 0}
	switch delete(common, 0); {
	case len(agreed) > 0:
		best = Hint{slices.MinFunc(slices.Collect(maps.Keys(agreed)), p.order(0)), true}
	case len(common) > 0 && !single && len(lists) > 0:
		best.Nodes = slices.MinFunc(slices.Collect(maps.Keys(common)), p.order(most))
	}
	if single && best.Nodes == all {
		best.Nodes = 0
	}
	return best, best.Preferred || p.name == kubeletconfig.BestEffortTopologyManagerPolicy
}

// order compares sets: those of the wanted size first, then smaller ones by falling size, then larger ones by rising size; zero wants the
// smallest.
func (p policy) order(wanted int) func(a, b Nodes) int {
	away := func(n Nodes) int {
		if n.count() <= wanted {
			return wanted - n.count()
		}
		return wanted + n.count()
	}
	return func(a, b Nodes) int {
		return cmp.Or(cmp.Compare(away(a), away(b)), cmp.Compare(p.distance(a), p.distance(b)), cmp.Compare(a, b))
	}
}

// distance is the mean one between the nodes of a set, where that counts.
func (p policy) distance(n Nodes) float64 {
	if !p.closest || p.name == kubeletconfig.SingleNumaNodeTopologyManagerPolicy {
		return 0
	}
	var sum float64
	for _, from := range p.machine.Nodes {
		for i, d := range from.Distances { // one for each node, in their order
			if n&node(from.Id) != 0 && n&node(p.machine.Nodes[i].Id) != 0 {
				sum += float64(d)
			}
		}
	}
	return sum / float64(n.count()*n.count())
}
