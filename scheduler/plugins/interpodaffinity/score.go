package interpodaffinity

import (
	"context"
	"fmt"
	"math"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
)

const scoreKey fwk.StateKey = "PreScore" + Name

// Clone implements fwk.StateData.
func (c counts) Clone() fwk.StateData { return c }

// PreScore implements fwk.PreScorePlugin: it sums, per domain, what the preferences of the incoming pod and of the running ones
// are worth there.
func (p *Plugin) PreScore(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, feasible []fwk.NodeInfo) *fwk.Status {
	info, err := nodeinfo.NewPodInfo(pod)
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("parse pod: %w", err))
	}
	prefers := len(info.GetPreferredAffinityTerms())+len(info.GetPreferredAntiAffinityTerms()) > 0
	lister := p.handle.SnapshotSharedLister().NodeInfos()
	list, all := lister.HavePodsWithAffinityList, false
	if prefers {
		list, all = lister.List, true
	} else if p.ignorePreferred {
		return fwk.NewStatus(fwk.Skip)
	}
	nodes, err := list()
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("list nodes: %w", err))
	}
	if len(nodes) == 0 || len(feasible) == 0 {
		return fwk.NewStatus(fwk.Skip)
	}
	near, err := p.resolveWeighted(info.GetPreferredAffinityTerms())
	if err != nil {
		return fwk.AsStatus(err)
	}
	away, err := p.resolveWeighted(info.GetPreferredAntiAffinityTerms())
	if err != nil {
		return fwk.AsStatus(err)
	}
	nsLabels := p.namespaceLabels(pod.Namespace)
	total := counts{}
	var mu sync.Mutex
	p.handle.Parallelizer().Until(ctx, len(nodes), func(i int) {
		mine := counts{}
		into := func(key string, weight int64) { mine.add(nodes[i].Node(), key, weight) }
		pods := nodes[i].GetPodsWithAffinity()
		if all {
			pods = nodes[i].GetPods()
		}
		for _, other := range pods {
			p.weigh(into, pod, nsLabels, near, away, other)
		}
		if len(mine) == 0 {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for d, weight := range mine {
			total[d] += weight
		}
	}, Name)
	if len(total) == 0 {
		return fwk.NewStatus(fwk.Skip)
	}
	state.Write(scoreKey, total)
	return nil
}

func (p *Plugin) resolveWeighted(terms []fwk.WeightedAffinityTerm) ([]fwk.WeightedAffinityTerm, error) {
	out := make([]fwk.WeightedAffinityTerm, len(terms))
	for i, t := range terms {
		resolved, err := p.resolve([]fwk.AffinityTerm{t.AffinityTerm})
		if err != nil {
			return nil, err
		}
		out[i] = fwk.WeightedAffinityTerm{AffinityTerm: resolved[0], Weight: t.Weight}
	}
	return out, nil
}

// weigh tells what one running pod means for the domains of its node, by topology key.
func (p *Plugin) weigh(into func(key string, weight int64), pod *corev1.Pod, nsLabels labels.Set, near, away []fwk.WeightedAffinityTerm, other fwk.PodInfo) {
	apply := func(terms []fwk.WeightedAffinityTerm, target *corev1.Pod, ns labels.Set, sign int64) {
		for _, t := range terms {
			if t.Matches(target, ns) {
				into(t.TopologyKey, sign*int64(t.Weight))
			}
		}
	}
	apply(near, other.GetPod(), nil, 1)
	apply(away, other.GetPod(), nil, -1)
	if p.hardWeight > 0 {
		for _, t := range other.GetRequiredAffinityTerms() {
			if t.Matches(pod, nsLabels) {
				into(t.TopologyKey, int64(p.hardWeight))
			}
		}
	}
	apply(other.GetPreferredAffinityTerms(), pod, nsLabels, 1)
	apply(other.GetPreferredAntiAffinityTerms(), pod, nsLabels, -1)
}

// Score implements fwk.ScorePlugin.
func (p *Plugin) Score(_ context.Context, state fwk.CycleState, _ *corev1.Pod, info fwk.NodeInfo) (int64, *fwk.Status) {
	data, err := state.Read(scoreKey)
	if err != nil {
		return 0, fwk.AsStatus(fmt.Errorf("read %s: %w", scoreKey, err))
	}
	total := data.(counts)
	var score int64
	for key, value := range info.Node().Labels {
		score += total[domain{key, value}]
	}
	return score, nil
}

// ScoreExtensions implements fwk.ScorePlugin.
func (p *Plugin) ScoreExtensions() fwk.ScoreExtensions { return p }

// NormalizeScore implements fwk.ScoreExtensions: the range of the scores, which may be negative, becomes the framework's.
func (p *Plugin) NormalizeScore(_ context.Context, _ fwk.CycleState, _ *corev1.Pod, scores fwk.NodeScoreList) *fwk.Status {
	lowest, highest := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range scores {
		lowest, highest = min(lowest, s.Score), max(highest, s.Score)
	}
	for i, s := range scores {
		scores[i].Score = 0
		if spread := highest - lowest; spread > 0 {
			scores[i].Score = int64(float64(fwk.MaxScore) * float64(s.Score-lowest) / float64(spread))
		}
	}
	return nil
}
