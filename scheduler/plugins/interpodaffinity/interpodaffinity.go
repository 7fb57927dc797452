// Package interpodaffinity places pods near or away from other pods.
package interpodaffinity

import (
	"context"
	"fmt"
	"maps"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/plugins/hint"
)

// Name is the plugin's name.
const Name = "InterPodAffinity"

const filterKey fwk.StateKey = "PreFilter" + Name

const (
	reasonAffinity     = "node(s) didn't match pod affinity rules"
	reasonAntiAffinity = "node(s) didn't match pod anti-affinity rules"
	reasonExisting     = "node(s) didn't satisfy existing pods anti-affinity rules"
)

// Plugin is the plugin.
type Plugin struct {
	handle     fwk.Handle
	namespaces corelisters.NamespaceLister
	// hardWeight is what the required affinity of a running pod towards the incoming one is worth.
	hardWeight int32
	// ignorePreferred leaves the preferences of running pods out for pods without preferences, which saves looking at them.
	ignorePreferred bool
	// changes counts the changes of namespaces that terms may look at.
	changes atomic.Int64
}

// New makes the plugin.
func New(_ context.Context, args runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	namespaces := h.SharedInformerFactory().Core().V1().Namespaces()
	p := &Plugin{handle: h, namespaces: namespaces.Lister(), hardWeight: 1}
	changed := func(any) { p.changes.Add(1) }
	if _, err := namespaces.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, DeleteFunc: changed, UpdateFunc: func(old, new any) {
			if !maps.Equal(old.(*corev1.Namespace).Labels, new.(*corev1.Namespace).Labels) {
				changed(new)
			}
		},
	}); err != nil {
		return nil, fmt.Errorf("watch namespaces: %w", err)
	}
	if a, ok := args.(*configv1.InterPodAffinityArgs); ok {
		if a.HardPodAffinityWeight != nil {
			p.hardWeight = *a.HardPodAffinityWeight
		}
		p.ignorePreferred = a.IgnorePreferredTermsOfExistingPods
	}
	return p, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

// domain is one value of a topology label.
type domain struct{ key, value string }

// counts are numbers of pods per domain.
type counts map[domain]int64

// add counts a node's domain of the term; a count that falls to 0 is forgotten, so that an empty map means none.
func (c counts) add(node *corev1.Node, key string, delta int64) {
	value, ok := node.Labels[key]
	if !ok {
		return
	}
	d := domain{key, value}
	c[d] += delta
	if c[d] == 0 {
		delete(c, d)
	}
}

type filterState struct {
	pod      fwk.PodInfo
	affinity []fwk.AffinityTerm
	anti     []fwk.AffinityTerm
	nsLabels labels.Set

	existingAnti, near, away counts
}

// Clone implements fwk.StateData.
func (s *filterState) Clone() fwk.StateData {
	out := *s
	out.existingAnti, out.near, out.away = maps.Clone(s.existingAnti), maps.Clone(s.near), maps.Clone(s.away)
	return &out
}

// namespaceLabels returns the labels of a namespace; a namespace that the cache does not know has none.
func (p *Plugin) namespaceLabels(name string) labels.Set {
	ns, err := p.namespaces.Get(name)
	if err != nil {
		return nil
	}
	return ns.Labels
}

// resolve replaces namespace selectors by the namespaces they select now, which is cheaper than to match each pod's.
func (p *Plugin) resolve(terms []fwk.AffinityTerm) ([]fwk.AffinityTerm, error) {
	out := make([]fwk.AffinityTerm, len(terms))
	for i, t := range terms {
		out[i] = t
		if t.NamespaceSelector.Empty() || t.NamespaceSelector.String() == "" {
			continue // empty selects all, and is matched without labels
		}
		list, err := p.namespaces.List(t.NamespaceSelector)
		if err != nil {
			return nil, fmt.Errorf("list namespaces: %w", err)
		}
		out[i].Namespaces = t.Namespaces.Clone()
		for _, ns := range list {
			out[i].Namespaces.Insert(ns.Name)
		}
		out[i].NamespaceSelector = labels.Nothing()
	}
	return out, nil
}

// PreFilter implements fwk.PreFilterPlugin.
func (p *Plugin) PreFilter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	info, err := nodeinfo.NewPodInfo(pod)
	if err != nil {
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fmt.Sprintf("parsing pod: %v", err))
	}
	s := &filterState{pod: info, nsLabels: p.namespaceLabels(pod.Namespace), existingAnti: counts{}, near: counts{}, away: counts{}}
	if s.affinity, err = p.resolve(info.GetRequiredAffinityTerms()); err != nil {
		return nil, fwk.AsStatus(err)
	}
	if s.anti, err = p.resolve(info.GetRequiredAntiAffinityTerms()); err != nil {
		return nil, fwk.AsStatus(err)
	}
	withAnti, err := p.handle.SnapshotSharedLister().NodeInfos().HavePodsWithRequiredAntiAffinityList()
	if err != nil {
		return nil, fwk.AsStatus(fmt.Errorf("list nodes: %w", err))
	}
	for _, n := range withAnti {
		for _, other := range n.GetPodsWithRequiredAntiAffinity() {
			s.countExisting(other, n.Node(), 1)
		}
	}
	if len(s.affinity)+len(s.anti) > 0 {
		for _, n := range nodes {
			for _, other := range n.GetPods() {
				s.countOwn(other.GetPod(), n.Node(), 1)
			}
		}
	}
	if len(s.existingAnti) == 0 && len(s.affinity)+len(s.anti) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	state.Write(filterKey, s)
	return nil, nil
}

// countExisting counts the domains from which a pod on the node keeps the incoming one away.
func (s *filterState) countExisting(other fwk.PodInfo, node *corev1.Node, delta int64) {
	for _, term := range other.GetRequiredAntiAffinityTerms() {
		if term.Matches(s.pod.GetPod(), s.nsLabels) {
			s.existingAnti.add(node, term.TopologyKey, delta)
		}
	}
}

// countOwn counts a pod on the node for the incoming pod's own terms. For affinity it must match all of them.
func (s *filterState) countOwn(other *corev1.Pod, node *corev1.Node, delta int64) {
	if len(s.affinity) > 0 && matchesAll(s.affinity, other) {
		for _, term := range s.affinity {
			s.near.add(node, term.TopologyKey, delta)
		}
	}
	for _, term := range s.anti {
		if term.Matches(other, nil) {
			s.away.add(node, term.TopologyKey, delta)
		}
	}
}

func matchesAll(terms []fwk.AffinityTerm, pod *corev1.Pod) bool {
	for _, term := range terms {
		if !term.Matches(pod, nil) {
			return false
		}
	}
	return true
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (p *Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return p }

// AddPod implements fwk.PreFilterExtensions.
func (p *Plugin) AddPod(_ context.Context, state fwk.CycleState, _ *corev1.Pod, added fwk.PodInfo, node fwk.NodeInfo) *fwk.Status {
	return shift(state, added, node.Node(), 1)
}

// RemovePod implements fwk.PreFilterExtensions.
func (p *Plugin) RemovePod(_ context.Context, state fwk.CycleState, _ *corev1.Pod, removed fwk.PodInfo, node fwk.NodeInfo) *fwk.Status {
	return shift(state, removed, node.Node(), -1)
}

func shift(state fwk.CycleState, other fwk.PodInfo, node *corev1.Node, delta int64) *fwk.Status {
	s, err := readFilter(state)
	if err != nil {
		return fwk.AsStatus(err)
	}
	s.countExisting(other, node, delta)
	s.countOwn(other.GetPod(), node, delta)
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
func (p *Plugin) Filter(_ context.Context, state fwk.CycleState, _ *corev1.Pod, info fwk.NodeInfo) *fwk.Status {
	s, err := readFilter(state)
	if err != nil {
		return fwk.AsStatus(err)
	}
	node := info.Node()
	if !s.nearEnough(node) {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, reasonAffinity)
	}
	for _, term := range s.anti {
		if s.away[domain{term.TopologyKey, node.Labels[term.TopologyKey]}] > 0 {
			return fwk.NewStatus(fwk.Unschedulable, reasonAntiAffinity)
		}
	}
	if len(s.existingAnti) > 0 {
		for key, value := range node.Labels {
			if s.existingAnti[domain{key, value}] > 0 {
				return fwk.NewStatus(fwk.Unschedulable, reasonExisting)
			}
		}
	}
	return nil
}

// nearEnough says whether every affinity term has a pod in the node's domain. The first pod of a group that wants to be near its
// own kind is let in anywhere.
func (s *filterState) nearEnough(node *corev1.Node) bool {
	met := true
	for _, term := range s.affinity {
		value, ok := node.Labels[term.TopologyKey]
		if !ok {
			return false
		}
		met = met && s.near[domain{term.TopologyKey, value}] > 0
	}
	return met || (len(s.near) == 0 && matchesAll(s.affinity, s.pod.GetPod()))
}

// EventsToRegister implements fwk.EnqueueExtensions.
func (p *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.On(fwk.AssignedPod, fwk.Add|fwk.UpdatePodLabel, func(pod, old, new *corev1.Pod) bool {
			return new != nil && p.relates(pod, new) || old != nil && p.relates(pod, old)
		}),
		hint.On(fwk.AssignedPod, fwk.Delete, func(pod, gone, _ *corev1.Pod) bool {
			return gone == nil || p.relates(pod, gone)
		}),
		hint.Always(fwk.TargetPod, fwk.UpdatePodLabel),
		hint.Always(fwk.Node, fwk.Add|fwk.UpdateNodeLabel),
	}, nil
}

// relates says whether the terms of one of the two pods concern the other.
func (p *Plugin) relates(pod, other *corev1.Pod) bool {
	mine, err := nodeinfo.NewPodInfo(pod)
	if err != nil {
		return true
	}
	theirs, err := nodeinfo.NewPodInfo(other)
	if err != nil {
		return true
	}
	myLabels, theirLabels := p.namespaceLabels(pod.Namespace), p.namespaceLabels(other.Namespace)
	for _, terms := range [][]fwk.AffinityTerm{mine.GetRequiredAffinityTerms(), mine.GetRequiredAntiAffinityTerms()} {
		for _, t := range terms {
			if t.Matches(other, theirLabels) {
				return true
			}
		}
	}
	for _, t := range theirs.GetRequiredAntiAffinityTerms() {
		if t.Matches(pod, myLabels) {
			return true
		}
	}
	return false
}
