package podtopologyspread

import (
	"context"
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	fwk "k8s.io/kube-scheduler/framework"
)

const scoreKey fwk.StateKey = "PreScore" + Name

// invalid is above every score.
const invalid = math.MaxInt64

type scoreState struct {
	constraints []constraint
	// counts per domain; nil for host names, which are counted on the node itself.
	counts  []map[string]int64
	weights []float64
	ignored sets.Set[string]
}

// Clone implements fwk.StateData.
func (s *scoreState) Clone() fwk.StateData { return s }

// PreScore implements fwk.PreScorePlugin.
func (p *Plugin) PreScore(_ context.Context, state fwk.CycleState, pod *corev1.Pod, feasible []fwk.NodeInfo) *fwk.Status {
	list, defaulted, err := p.constraints(pod, corev1.ScheduleAnyway)
	if err != nil {
		return fwk.AsStatus(err)
	}
	all, err := p.handle.SnapshotSharedLister().NodeInfos().List()
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("list nodes: %w", err))
	}
	if len(list) == 0 || len(all) == 0 {
		return fwk.NewStatus(fwk.Skip)
	}
	// With the built-in defaults, clusters without zones still spread over hosts.
	needAll := !defaulted || !p.system
	s := &scoreState{constraints: list, counts: make([]map[string]int64, len(list)), weights: make([]float64, len(list)), ignored: sets.New[string]()}
	s.domains(feasible, needAll)
	affinity := nodeaffinity.GetRequiredNodeAffinity(pod)
	for _, n := range all {
		if needAll && !hasKeys(n.Node(), list) {
			continue
		}
		for i, c := range list {
			domain, ok := n.Node().Labels[c.key]
			if _, wanted := s.counts[i][domain]; !ok || !wanted || !c.includes(pod, n.Node(), affinity) {
				continue
			}
			s.counts[i][domain] += int64(countOn(n, c, pod))
		}
	}
	state.Write(scoreKey, s)
	return nil
}

// domains finds the domains of the feasible nodes. The weight of a constraint grows with their number, so that those with many
// domains, which have few pods each, are not drowned.
func (s *scoreState) domains(feasible []fwk.NodeInfo, needAll bool) {
	for _, n := range feasible {
		if needAll && !hasKeys(n.Node(), s.constraints) {
			s.ignored.Insert(n.Node().Name)
		}
	}
	for i, c := range s.constraints {
		size := len(feasible) - s.ignored.Len()
		if c.key != corev1.LabelHostname {
			s.counts[i] = map[string]int64{}
			for _, n := range feasible {
				if domain, ok := n.Node().Labels[c.key]; ok && !s.ignored.Has(n.Node().Name) {
					s.counts[i][domain] = 0
				}
			}
			size = len(s.counts[i])
		}
		s.weights[i] = math.Log(float64(size + 2))
	}
}

// Score implements fwk.ScorePlugin: how many pods the node's domains have, lower is better.
func (p *Plugin) Score(_ context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	data, err := state.Read(scoreKey)
	if err != nil {
		return 0, fwk.AsStatus(fmt.Errorf("read %s: %w", scoreKey, err))
	}
	s := data.(*scoreState)
	if s.ignored.Has(node.Node().Name) {
		return 0, nil
	}
	var score float64
	for i, c := range s.constraints {
		domain, ok := node.Node().Labels[c.key]
		if !ok {
			continue
		}
		count := int64(0)
		if c.key == corev1.LabelHostname {
			count = int64(countOn(node, c, pod))
		} else {
			count = s.counts[i][domain]
		}
		score += float64(count)*s.weights[i] + float64(c.maxSkew-1)
	}
	return int64(math.Round(score)), nil
}

// ScoreExtensions implements fwk.ScorePlugin.
func (p *Plugin) ScoreExtensions() fwk.ScoreExtensions { return p }

// NormalizeScore implements fwk.ScoreExtensions.
func (p *Plugin) NormalizeScore(_ context.Context, state fwk.CycleState, _ *corev1.Pod, scores fwk.NodeScoreList) *fwk.Status {
	data, err := state.Read(scoreKey)
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("read %s: %w", scoreKey, err))
	}
	s := data.(*scoreState)
	lowest, highest := int64(invalid), int64(0)
	for _, n := range scores {
		if s.ignored.Has(n.Name) {
			continue
		}
		lowest, highest = min(lowest, n.Score), max(highest, n.Score)
	}
	for i, n := range scores {
		switch {
		case s.ignored.Has(n.Name):
			scores[i].Score = 0
		case highest == 0:
			scores[i].Score = fwk.MaxScore
		default:
			scores[i].Score = fwk.MaxScore * (highest + lowest - n.Score) / highest
		}
	}
	return nil
}
