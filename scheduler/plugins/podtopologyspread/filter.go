package podtopologyspread

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	fwk "k8s.io/kube-scheduler/framework"
)

const filterKey fwk.StateKey = "PreFilter" + Name

const (
	reasonSkew  = "node(s) didn't match pod topology spread constraints"
	reasonLabel = "node(s) didn't match pod topology spread constraints (missing required label)"
)

// tally counts a constraint's pods per domain and knows the lowest count without looking at all domains.
type tally struct {
	count map[string]int
	// domains is how many domains have a given count.
	domains map[int]int
	lowest  int
}

func newTally() *tally { return &tally{count: map[string]int{}, domains: map[int]int{}} }

// add changes the count of a domain; a delta of 0 makes the domain known.
func (t *tally) add(domain string, delta int) {
	old, known := t.count[domain]
	t.count[domain] = old + delta
	if known {
		t.domains[old]--
		if t.domains[old] == 0 {
			delete(t.domains, old)
		}
	}
	t.domains[old+delta]++
	if len(t.count) == 1 || old+delta < t.lowest {
		t.lowest = old + delta
	}
	for t.domains[t.lowest] == 0 {
		t.lowest++
	}
}

func (t *tally) clone() *tally {
	return &tally{count: maps.Clone(t.count), domains: maps.Clone(t.domains), lowest: t.lowest}
}

type filterState struct {
	constraints []constraint
	tallies     []*tally
	affinity    nodeaffinity.RequiredNodeAffinity
}

// Clone implements fwk.StateData.
func (s *filterState) Clone() fwk.StateData {
	out := *s
	out.tallies = make([]*tally, len(s.tallies))
	for i, t := range s.tallies {
		out.tallies[i] = t.clone()
	}
	return &out
}

// PreFilter implements fwk.PreFilterPlugin.
func (p *Plugin) PreFilter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	list, _, err := p.constraints(pod, corev1.DoNotSchedule)
	if err != nil {
		return nil, fwk.AsStatus(err)
	}
	if len(list) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	s := &filterState{constraints: list, affinity: nodeaffinity.GetRequiredNodeAffinity(pod)}
	for range list {
		s.tallies = append(s.tallies, newTally())
	}
	for _, n := range nodes {
		if !hasKeys(n.Node(), list) {
			continue
		}
		for i, c := range list {
			if c.includes(pod, n.Node(), s.affinity) {
				s.tallies[i].add(n.Node().Labels[c.key], countOn(n, c, pod))
			}
		}
	}
	state.Write(filterKey, s)
	return nil, nil
}

func countOn(n fwk.NodeInfo, c constraint, pod *corev1.Pod) int {
	count := 0
	for _, other := range n.GetPods() {
		if c.counts(other.GetPod(), pod) {
			count++
		}
	}
	return count
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (p *Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return p }

// AddPod implements fwk.PreFilterExtensions.
func (p *Plugin) AddPod(_ context.Context, state fwk.CycleState, pod *corev1.Pod, added fwk.PodInfo, node fwk.NodeInfo) *fwk.Status {
	return p.shift(state, pod, added.GetPod(), node.Node(), 1)
}

// RemovePod implements fwk.PreFilterExtensions.
func (p *Plugin) RemovePod(_ context.Context, state fwk.CycleState, pod *corev1.Pod, removed fwk.PodInfo, node fwk.NodeInfo) *fwk.Status {
	return p.shift(state, pod, removed.GetPod(), node.Node(), -1)
}

func (p *Plugin) shift(state fwk.CycleState, pod, other *corev1.Pod, node *corev1.Node, delta int) *fwk.Status {
	s, err := readFilter(state)
	if err != nil {
		return fwk.AsStatus(err)
	}
	if !hasKeys(node, s.constraints) {
		return nil
	}
	for i, c := range s.constraints {
		if c.counts(other, pod) && c.includes(pod, node, s.affinity) {
			s.tallies[i].add(node.Labels[c.key], delta)
		}
	}
	return nil
}

func readFilter(state fwk.CycleState) (*filterState, error) {
	data, err := state.Read(filterKey)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filterKey, err)
	}
	return data.(*filterState), nil
}

// Filter implements fwk.FilterPlugin.
func (p *Plugin) Filter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	s, err := readFilter(state)
	if err != nil {
		return fwk.AsStatus(err)
	}
	for i, c := range s.constraints {
		domain, ok := node.Node().Labels[c.key]
		if !ok {
			return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, reasonLabel)
		}
		t := s.tallies[i]
		lowest := t.lowest
		if len(t.count) < c.minDomains {
			lowest = 0 // the missing domains have none
		}
		self := 0
		if c.matches(pod) {
			self = 1
		}
		if t.count[domain]+self-lowest > c.maxSkew {
			return fwk.NewStatus(fwk.Unschedulable, reasonSkew)
		}
	}
	return nil
}
