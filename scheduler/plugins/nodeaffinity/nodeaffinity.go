// Package nodeaffinity implements a pod's nodeSelector and node affinity, and the affinity that a profile adds to all its pods.
package nodeaffinity

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
	"keelson.dev/scheduler/plugins/hint"
	"keelson.dev/scheduler/plugins/normalize"
)

// Name is the plugin's name.
const Name = "NodeAffinity"

const (
	filterKey fwk.StateKey = "PreFilter" + Name
	scoreKey  fwk.StateKey = "PreScore" + Name

	reasonPod     = "node(s) didn't match Pod's node affinity/selector"
	reasonProfile = "node(s) didn't match scheduler-enforced node affinity"
)

// Plugin is the plugin.
type Plugin struct {
	added      *nodeaffinity.NodeSelector
	addedPrefs *nodeaffinity.PreferredSchedulingTerms
}

// New makes the plugin.
func New(_ context.Context, args runtime.Object, _ fwk.Handle) (fwk.Plugin, error) {
	p := &Plugin{}
	a, ok := args.(*configv1.NodeAffinityArgs)
	if !ok || a.AddedAffinity == nil {
		return p, nil
	}
	var err error
	if r := a.AddedAffinity.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		if p.added, err = nodeaffinity.NewNodeSelector(r); err != nil {
			return nil, fmt.Errorf("parse addedAffinity: %w", err)
		}
	}
	if terms := a.AddedAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
		if p.addedPrefs, err = nodeaffinity.NewPreferredSchedulingTerms(terms); err != nil {
			return nil, fmt.Errorf("parse addedAffinity: %w", err)
		}
	}
	return p, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

type required struct {
	nodeaffinity.RequiredNodeAffinity
}

// Clone implements fwk.StateData.
func (r required) Clone() fwk.StateData { return r }

type preferred struct {
	*nodeaffinity.PreferredSchedulingTerms
}

// Clone implements fwk.StateData.
func (p preferred) Clone() fwk.StateData { return p }

// PreFilter implements fwk.PreFilterPlugin. A pod whose every term names nodes, as DaemonSet pods do, is limited to those.
func (p *Plugin) PreFilter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	affinity := nodeAffinity(pod)
	var terms []corev1.NodeSelectorTerm
	if affinity != nil && affinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = affinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	} else if len(pod.Spec.NodeSelector) == 0 && p.added == nil {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	state.Write(filterKey, required{nodeaffinity.GetRequiredNodeAffinity(pod)})
	names, limited := namedNodes(terms)
	if !limited {
		return nil, nil
	}
	if names.Len() == 0 {
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "pod affinity terms conflict")
	}
	return &fwk.PreFilterResult{NodeNames: names}, nil
}

// namedNodes returns the nodes that terms (or-ed) name by metadata.name, if each of them does.
func namedNodes(terms []corev1.NodeSelectorTerm) (sets.Set[string], bool) {
	if len(terms) == 0 {
		return nil, false
	}
	all := sets.New[string]()
	for _, term := range terms {
		var names sets.Set[string]
		for _, f := range term.MatchFields {
			if f.Key != metav1.ObjectNameField || f.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if names == nil {
				names = sets.New(f.Values...)
				continue
			}
			names = names.Intersection(sets.New(f.Values...))
		}
		if names == nil {
			return nil, false
		}
		all = all.Union(names)
	}
	return all, true
}

func nodeAffinity(pod *corev1.Pod) *corev1.NodeAffinity {
	if pod.Spec.Affinity == nil {
		return nil
	}
	return pod.Spec.Affinity.NodeAffinity
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (*Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter implements fwk.FilterPlugin.
func (p *Plugin) Filter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, info fwk.NodeInfo) *fwk.Status {
	need, err := state.Read(filterKey)
	if err != nil {
		need = required{nodeaffinity.GetRequiredNodeAffinity(pod)} // a caller that runs filters alone
	}
	if why := p.mismatch(need.(required), info.Node()); why != "" {
		return refusal(why)
	}
	return nil
}

// mismatch says why the node does not match, or "".
func (p *Plugin) mismatch(need required, node *corev1.Node) string {
	if p.added != nil && !p.added.Match(node) {
		return reasonProfile
	}
	if ok, err := need.Match(node); !ok || err != nil {
		return reasonPod
	}
	return ""
}

func refusal(why string) *fwk.Status {
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, why).WithPlugin(Name)
}

// LocalFilter implements columns.LocalFilter.
func (p *Plugin) LocalFilter(t *columns.Table, info fwk.PodInfo) columns.Filter {
	pod := info.GetPod()
	if a := nodeAffinity(pod); (a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil) && len(pod.Spec.NodeSelector) == 0 && p.added == nil {
		return nil
	}
	need := required{nodeaffinity.GetRequiredNodeAffinity(pod)}
	refused := map[string]*fwk.Status{"": nil, reasonPod: refusal(reasonPod), reasonProfile: refusal(reasonProfile)}
	return columns.NodeFilter(func(slot int32) *fwk.Status { return refused[p.mismatch(need, t.Nodes[slot].Node())] })
}

// LocalScore implements columns.LocalScore.
func (p *Plugin) LocalScore(t *columns.Table, info fwk.PodInfo) columns.Score {
	terms := preferences(info.GetPod())
	if len(terms) == 0 && p.addedPrefs == nil {
		return nil
	}
	parsed, err := nodeaffinity.NewPreferredSchedulingTerms(terms)
	if err != nil {
		return nil // validation keeps such pods out
	}
	return columns.NodeScore{Of: func(slot int32) int64 {
		node := t.Nodes[slot].Node()
		sum := parsed.Score(node)
		if p.addedPrefs != nil {
			sum += p.addedPrefs.Score(node)
		}
		return sum
	}}
}

// NamesNodes says whether the pod's affinity names the nodes it may be on, as that of a DaemonSet's pod does.
func NamesNodes(pod *corev1.Pod) bool {
	a := nodeAffinity(pod)
	if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return false
	}
	_, limited := namedNodes(a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms)
	return limited
}

func preferences(pod *corev1.Pod) []corev1.PreferredSchedulingTerm {
	if a := nodeAffinity(pod); a != nil {
		return a.PreferredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// PreScore implements fwk.PreScorePlugin.
func (p *Plugin) PreScore(_ context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) *fwk.Status {
	terms := preferences(pod)
	if len(nodes) == 0 || (len(terms) == 0 && p.addedPrefs == nil) {
		return fwk.NewStatus(fwk.Skip)
	}
	parsed, err := nodeaffinity.NewPreferredSchedulingTerms(terms)
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("parse preferred node affinity: %w", err))
	}
	state.Write(scoreKey, preferred{parsed})
	return nil
}

// Score implements fwk.ScorePlugin: the sum of the weights of the matching terms.
func (p *Plugin) Score(_ context.Context, state fwk.CycleState, _ *corev1.Pod, info fwk.NodeInfo) (int64, *fwk.Status) {
	var sum int64
	if p.addedPrefs != nil {
		sum += p.addedPrefs.Score(info.Node())
	}
	if terms, err := state.Read(scoreKey); err == nil {
		sum += terms.(preferred).Score(info.Node())
	}
	return sum, nil
}

// ScoreExtensions implements fwk.ScorePlugin.
func (p *Plugin) ScoreExtensions() fwk.ScoreExtensions { return p }

// NormalizeScore implements fwk.ScoreExtensions.
func (*Plugin) NormalizeScore(_ context.Context, _ fwk.CycleState, _ *corev1.Pod, scores fwk.NodeScoreList) *fwk.Status {
	normalize.Linear(false, scores)
	return nil
}

// EventsToRegister implements fwk.EnqueueExtensions.
func (p *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	fits := func(pod *corev1.Pod, node *corev1.Node) bool {
		if node == nil || (p.added != nil && !p.added.Match(node)) {
			return false
		}
		ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node)
		return ok && err == nil
	}
	return []fwk.ClusterEventWithHint{
		hint.On(fwk.Node, fwk.Add|fwk.UpdateNodeLabel, func(pod *corev1.Pod, old, node *corev1.Node) bool {
			return fits(pod, node) && !fits(pod, old)
		}),
	}, nil
}
