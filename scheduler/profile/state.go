package profile

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/util/sets"
	fwk "k8s.io/kube-scheduler/framework"
)

// State is what plugins remember during one attempt to schedule one pod. It implements fwk.CycleState.
type State struct {
	mu      sync.RWMutex
	storage map[fwk.StateKey]fwk.StateData

	skipFilter, skipScore, skipPreBind, parallelPreBind sets.Set[string]
	measure                                             *atomic.Int32 // calls of plugins whose time is still to be taken; nil: none
}

// One attempt in ten is measured, as upstream does, and of a large cluster's only the first calls: measuring must cost nothing.
const (
	measuredPercent = 10
	measuredCalls   = 1000
)

var _ fwk.CycleState = &State{}

// NewState returns an empty State.
func NewState() *State { return &State{storage: map[fwk.StateKey]fwk.StateData{}} }

// Sampled lets chance decide whether the plugins that work on this state are measured.
func (s *State) Sampled() *State {
	if rand.IntN(100) < measuredPercent { //nolint:gosec // no secret
		s.measure = &atomic.Int32{}
		s.measure.Store(measuredCalls)
	}
	return s
}

// Anew returns an empty State of the same attempt.
func (s *State) Anew() *State {
	out := NewState()
	out.measure = s.measure
	return out
}

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
	out := s.Anew()
	for k, v := range s.storage {
		out.storage[k] = v.Clone()
	}
	out.skipFilter, out.skipScore = s.skipFilter, s.skipScore
	out.skipPreBind, out.parallelPreBind = s.skipPreBind, s.parallelPreBind
	return out
}

// ShouldRecordPluginMetrics implements fwk.CycleState: whether one more call is to be measured.
func (s *State) ShouldRecordPluginMetrics() bool { return s.measure != nil && s.measure.Add(-1) >= 0 }

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
