package topology

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/utils/cpuset"
)

// cpuOptions are the options of the CPU manager's static policy.
type cpuOptions struct {
	fullCores   bool // only whole cores, so that no two containers share one
	acrossNodes bool // the same from each node, if one does not have enough
	byCache     bool // in as few caches as possible
	strict      bool // what is reserved is not shared either
}

// kind is a way to part CPUs into groups.
type kind func(CPU) int

func byNode(c CPU) int  { return c.Node }
func byCache(c CPU) int { return c.Cache }
func byCore(c CPU) int  { return c.Core }
func byID(c CPU) int    { return c.ID }

// kinds are those of groups that are taken as a whole, the largest first.
func (m *Machine) kinds(caches bool) []kind {
	bySocket := func(c CPU) int { return c.Socket }
	out := []kind{byNode, bySocket, byCore, byID}
	if len(m.groups(m.all(), bySocket)) < len(m.Nodes) {
		out = []kind{bySocket, byNode, byCore, byID}
	}
	if caches {
		out = slices.Insert(out, 2, byCache)
	}
	return out
}

// groups parts some CPUs.
func (m *Machine) groups(cpus cpuset.CPUSet, by kind) map[int]cpuset.CPUSet {
	ids := map[int][]int{}
	for _, c := range m.CPUs {
		if cpus.Contains(c.ID) {
			ids[by(c)] = append(ids[by(c)], c.ID)
		}
	}
	out := map[int]cpuset.CPUSet{}
	for key, list := range ids {
		out[key] = cpuset.New(list...)
	}
	return out
}

// ordered are the keys of groups of free CPUs in the order in which to take them: at each level the groups of which the least is left come
// first, so that others stay whole.
func (m *Machine) ordered(free cpuset.CPUSet, by kind, kinds []kind) (out []int) {
	var sizes []map[int]cpuset.CPUSet
	for _, k := range kinds {
		sizes = append(sizes, m.groups(free, k))
	}
	cpus := slices.DeleteFunc(slices.Clone(m.CPUs), func(c CPU) bool { return !free.Contains(c.ID) })
	slices.SortFunc(cpus, func(a, b CPU) int {
		for i, k := range kinds {
			if order := cmp.Or(cmp.Compare(sizes[i][k(a)].Size(), sizes[i][k(b)].Size()), cmp.Compare(k(a), k(b))); order != 0 {
				return order
			}
		}
		return 0
	})
	for _, c := range cpus {
		if !slices.Contains(out, by(c)) {
			out = append(out, by(c))
		}
	}
	return out
}

// take chooses n of the free CPUs. It is an error if there are fewer.
func (m *Machine) take(free cpuset.CPUSet, n int, o cpuOptions) (cpuset.CPUSet, error) {
	if n > free.Size() {
		return cpuset.New(), fmt.Errorf("not enough cpus available to satisfy request: requested=%d, available=%d", n, free.Size())
	}
	if !o.acrossNodes {
		return m.pack(free, n, o.byCache), nil
	}
	out, of := cpuset.New(), m.groups(free, byNode)
	for id, share := range m.shares(free, n, o) {
		out = out.Union(m.pack(of[id], share, false))
	}
	return out.Union(m.pack(free.Difference(out), n-out.Size(), false)), nil
}

// pack chooses n of the free CPUs, of which there are as many, close together: whole sockets and nodes first, then whole cores, then threads
// of cores that are in use already.
func (m *Machine) pack(free cpuset.CPUSet, n int, caches bool) cpuset.CPUSet {
	out, kinds := cpuset.New(), m.kinds(caches)
	for i, by := range kinds {
		whole, groups, order := m.groups(m.all(), by), m.groups(free, by), m.ordered(free, by, kinds)
		for _, key := range order {
			if group := groups[key]; group.Size() <= n && group.Size() == whole[key].Size() {
				out, free, n = out.Union(group), free.Difference(group), n-group.Size()
			}
		}
		if !caches || i != 2 || n == 0 {
			continue
		}
		for _, key := range order { // what is left to take may fit into one cache
			if group := groups[key].Intersection(free); group.Size() >= n {
				return out.Union(m.pack(group, n, false))
			}
		}
	}
	return out
}

// shares is how many CPUs to take from which node: the same from as few as can do that, in whole cores if need be (KEP-2902). What does not
// divide comes from those that have the most left; of several ways, the one that leaves the nodes most equal. It is empty if there is none.
func (m *Machine) shares(free cpuset.CPUSet, n int, o cpuOptions) (best map[int]int) {
	unit, least := 1, 0
	if o.fullCores {
		unit = m.threads()
	}
	if n%unit != 0 {
		return nil
	}
	of := m.groups(free, byNode)
	for ids := range subsets(m.ordered(free, byNode, m.kinds(false))) {
		each := n / len(ids) / unit * unit
		if each == 0 || best != nil && len(ids) > len(best) {
			break
		}
		share, left := map[int]int{}, map[int]int{}
		for id, cpus := range of {
			left[id] = cpus.Size()
		}
		give := func(id, amount int) bool {
			share[id] += amount
			left[id] -= amount
			return left[id] >= 0
		}
		fits := true
		for _, id := range ids {
			fits = give(id, each) && fits
		}
		for rest := n - each*len(ids); fits && rest > 0; rest -= unit {
			fits = give(slices.MaxFunc(ids, func(a, b int) int { return left[a] - left[b] }), unit)
		}
		squares := 0
		for _, l := range left {
			squares += l * l
		}
		if fits && (best == nil || squares < least) {
			best, least = share, squares
		}
	}
	return best
}

// threads is how many CPUs a core has.
func (m *Machine) threads() int { return len(m.CPUs) / len(m.groups(m.all(), byCore)) }

// alignmentError is why a pod fails that cannot have whole cores.
type alignmentError struct{ requested, threads, available int }

func (e *alignmentError) Error() string {
	if e.requested%e.threads != 0 {
		return fmt.Sprintf("SMT Alignment Error: requested %d cpus not multiple cpus per core = %d", e.requested, e.threads)
	}
	return fmt.Sprintf("SMT Alignment Error: not enough free physical CPUs: available physical CPUs = %d, requested CPUs = %d, CPUs per core = %d", e.available, e.requested, e.threads)
}

// cpuHints are the nodes that could give n CPUs, those of a pod's earlier containers among them.
func (m *Machine) cpuHints(free, reuse cpuset.CPUSet, n int) []Hint {
	return Hints(m.nodes(),
		func(on Nodes) bool { return m.cpusOf(on).Size() >= n },
		func(on Nodes) bool {
			cpus := m.cpusOf(on)
			return reuse.IsSubsetOf(cpus) && cpus.Intersection(free.Union(reuse)).Size() >= n
		})
}

// near chooses n CPUs, of the given nodes as far as they have some.
func (m *Machine) near(free cpuset.CPUSet, n int, on Nodes, o cpuOptions) (cpuset.CPUSet, error) {
	local := free.Intersection(m.cpusOf(on))
	out, err := m.take(local, min(n, local.Size()), o)
	if err != nil {
		return out, err
	}
	rest, err := m.take(free.Difference(out), n-out.Size(), o)
	return out.Union(rest), err
}
