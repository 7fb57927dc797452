package profile

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/sets"
	fwk "k8s.io/kube-scheduler/framework"
)

// State is what plugins remember during one attempt to schedule one pod. It implements fwk.CycleState.
type State struct {
	mu      sync.RWMutex
	storage map[fwk.StateKey]fwk.StateData

	skipFilter, skipScore, skipPreBind, parallelPreBind sets.Set[string]
}

var _ fwk.CycleState = &State{}

// NewState returns an empty State.
func NewState() *State { return &State{storage: map[fwk.StateKey]fwk.StateData{}} }

// Read implements fwk.CycleState.
func (s *State) Read(key fwk.StateKey) (fwk.StateData, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if v, ok := s.storage[key]; ok {
		return v, nil
	}
	return nil, fwk.ErrNotFound
}

// Write implements fwk.CycleState.
func (s *State) Write(key fwk.StateKey, val fwk.StateData) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.storage[key] = val
}

// Delete implements fwk.CycleState.
func (s *State) Delete(key fwk.StateKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.storage, key)
}

// Clone implements fwk.CycleState.
func (s *State) Clone() fwk.CycleState {
	if s == nil {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := NewState()
	for k, v := range s.storage {
		out.storage[k] = v.Clone()
	}
	out.skipFilter, out.skipScore = s.skipFilter, s.skipScore
	out.skipPreBind, out.parallelPreBind = s.skipPreBind, s.parallelPreBind
	return out
}

// ShouldRecordPluginMetrics implements fwk.CycleState.
func (s *State) ShouldRecordPluginMetrics() bool { return false }

// GetSkipFilterPlugins implements fwk.CycleState.
func (s *State) GetSkipFilterPlugins() sets.Set[string] { return s.skipFilter }

// SetSkipFilterPlugins implements fwk.CycleState.
func (s *State) SetSkipFilterPlugins(plugins sets.Set[string]) { s.skipFilter = plugins }

// GetSkipScorePlugins implements fwk.CycleState.
func (s *State) GetSkipScorePlugins() sets.Set[string] { return s.skipScore }

// SetSkipScorePlugins implements fwk.CycleState.
func (s *State) SetSkipScorePlugins(plugins sets.Set[string]) { s.skipScore = plugins }

// GetSkipPreBindPlugins implements fwk.CycleState.
func (s *State) GetSkipPreBindPlugins() sets.Set[string] { return s.skipPreBind }

// SetSkipPreBindPlugins implements fwk.CycleState.
func (s *State) SetSkipPreBindPlugins(plugins sets.Set[string]) { s.skipPreBind = plugins }

// GetParallelPreBindPlugins implements fwk.CycleState.
func (s *State) GetParallelPreBindPlugins() sets.Set[string] { return s.parallelPreBind }

// SetParallelPreBindPlugins implements fwk.CycleState.
func (s *State) SetParallelPreBindPlugins(plugins sets.Set[string]) { s.parallelPreBind = plugins }

// ShouldSkipAllPostFilterPlugins implements fwk.CycleState.
func (s *State) ShouldSkipAllPostFilterPlugins() bool { return false }

// IsPodGroupSchedulingCycle implements fwk.CycleState: there are only single pods.
func (s *State) IsPodGroupSchedulingCycle() bool { return false }

// GetPodGroupSchedulingCycle implements fwk.CycleState.
func (s *State) GetPodGroupSchedulingCycle() fwk.PodGroupCycleState { return nil }

// GetPlacementCycleState implements fwk.CycleState.
func (s *State) GetPlacementCycleState() fwk.PlacementCycleState { return nil }

// Diagnosis says why no node fits. It implements fwk.NodeToStatusReader.
type Diagnosis struct {
	// NodeStatus is the refusal of each node that was asked.
	NodeStatus map[string]*fwk.Status
	// Absent stands for the nodes that were not asked, because a PreFilter plugin excluded them.
	Absent *fwk.Status
	// PreFilterMessage is set when a PreFilter plugin refused the pod as such.
	PreFilterMessage string
	// PostFilterMessage is what the PostFilter plugins add.
	PostFilterMessage string
	// Rejectors are the plugins that refused; Pending those that only want to be asked again.
	Rejectors, Pending sets.Set[string]
}

var _ fwk.NodeToStatusReader = &Diagnosis{}

// NewDiagnosis returns an empty Diagnosis.
func NewDiagnosis() *Diagnosis {
	return &Diagnosis{
		NodeStatus: map[string]*fwk.Status{},
		Absent:     fwk.NewStatus(fwk.UnschedulableAndUnresolvable),
		Rejectors:  sets.New[string](),
		Pending:    sets.New[string](),
	}
}

// Get implements fwk.NodeToStatusReader.
func (d *Diagnosis) Get(node string) *fwk.Status {
	if s, ok := d.NodeStatus[node]; ok {
		return s
	}
	return d.Absent
}

// NodesForStatusCode implements fwk.NodeToStatusReader.
func (d *Diagnosis) NodesForStatusCode(lister fwk.NodeInfoLister, code fwk.Code) ([]fwk.NodeInfo, error) {
	all, err := lister.List()
	if err != nil {
		return nil, err
	}
	var out []fwk.NodeInfo
	for _, n := range all {
		if d.Get(n.Node().Name).Code() == code {
			out = append(out, n)
		}
	}
	return out, nil
}

// Blame notes the plugin behind a refusal.
func (d *Diagnosis) Blame(status *fwk.Status) {
	if status.Plugin() == "" {
		return
	}
	if status.Code() == fwk.Pending {
		d.Pending.Insert(status.Plugin())
		return
	}
	d.Rejectors.Insert(status.Plugin())
}

// Explain words the diagnosis as users know it: "0/3 nodes are available: 1 node(s) had …, 2 Insufficient cpu. preemption: …".
func (d *Diagnosis) Explain(numNodes int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "0/%d nodes are available:", numNodes)
	if d.PreFilterMessage != "" {
		fmt.Fprintf(&b, " %s.", d.PreFilterMessage)
	} else if reasons := d.countReasons(numNodes); len(reasons) > 0 {
		fmt.Fprintf(&b, " %s.", strings.Join(reasons, ", "))
	}
	if d.PostFilterMessage != "" {
		fmt.Fprintf(&b, " %s", d.PostFilterMessage)
	}
	return b.String()
}

// countReasons returns "count reason" for each reason of a refusal, sorted.
func (d *Diagnosis) countReasons(numNodes int) []string {
	counts := map[string]int{}
	for _, status := range d.NodeStatus {
		for _, reason := range status.Reasons() {
			counts[reason]++
		}
	}
	if absent := numNodes - len(d.NodeStatus); absent > 0 {
		for _, reason := range d.Absent.Reasons() {
			counts[reason] += absent
		}
	}
	out := make([]string, 0, len(counts))
	for reason, n := range counts {
		out = append(out, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(out)
	return out
}
