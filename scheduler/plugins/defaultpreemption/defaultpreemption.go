// Package defaultpreemption makes room for a pod that fits nowhere by evicting pods of lower priority.
//
// The decision: on each node that preemption can help, take away every pod of lower priority and put back as many as possible,
// the most important first. Of the nodes where the pod then fits, the one that loses least is taken. The eviction runs in the
// background; until it is done, the pod is kept out of the queue.
package defaultpreemption

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/plugins/hint"
	"keelson.dev/scheduler/profile"
)

// Name is the plugin's name.
const Name = "DefaultPreemption"

// Plugin is the plugin.
type Plugin struct {
	handle  fwk.Handle
	budgets policylisters.PodDisruptionBudgetLister
	pods    corelisters.PodLister
	// A search among many nodes stops at so many candidates.
	minPercentage, minAbsolute int

	mu sync.Mutex
	// preempting holds the pods whose victims are being evicted, and the last victim when its turn has come.
	preempting map[types.UID]*corev1.Pod
}

// New makes the plugin.
func New(_ context.Context, args runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	p := &Plugin{
		handle: h, budgets: h.SharedInformerFactory().Policy().V1().PodDisruptionBudgets().Lister(), pods: h.SharedInformerFactory().Core().V1().Pods().Lister(),
		minPercentage: 10, minAbsolute: 100, preempting: map[types.UID]*corev1.Pod{},
	}
	if a, ok := args.(*configv1.DefaultPreemptionArgs); ok {
		if a.MinCandidateNodesPercentage != nil {
			p.minPercentage = int(*a.MinCandidateNodesPercentage)
		}
		if a.MinCandidateNodesAbsolute != nil {
			p.minAbsolute = int(*a.MinCandidateNodesAbsolute)
		}
	}
	return p, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

// EventsToRegister implements fwk.EnqueueExtensions: the end of the last victim ends what PreEnqueue waits for.
func (p *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{hint.On(fwk.AssignedPod, fwk.Delete, func(pod, gone, _ *corev1.Pod) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		last, preempting := p.preempting[pod.UID]
		return !preempting || last != nil && gone != nil && gone.UID == last.UID
	})}, nil
}

// PreEnqueue implements fwk.PreEnqueuePlugin.
func (p *Plugin) PreEnqueue(_ context.Context, pod *corev1.Pod) *fwk.Status {
	p.mu.Lock()
	last, preempting := p.preempting[pod.UID]
	p.mu.Unlock()
	if !preempting {
		return nil
	}
	if last != nil {
		if current := p.current(last); current == nil || current.DeletionTimestamp != nil {
			return nil // it goes, and the others went before
		}
	}
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "waiting for the preemption for this pod to be finished")
}

// PostFilter implements fwk.PostFilterPlugin.
func (p *Plugin) PostFilter(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, statuses fwk.NodeToStatusReader) (*fwk.PostFilterResult, *fwk.Status) {
	if why := p.ineligible(pod, statuses); why != "" {
		return nil, fwk.NewStatus(fwk.Unschedulable, "preemption: "+why)
	}
	nodes := p.handle.SnapshotSharedLister().NodeInfos()
	all, err := nodes.List()
	if err != nil {
		return nil, fwk.AsStatus(fmt.Errorf("list nodes: %w", err))
	}
	hopeful, err := statuses.NodesForStatusCode(nodes, fwk.Unschedulable)
	if err != nil {
		return nil, fwk.AsStatus(fmt.Errorf("list nodes: %w", err))
	}
	budgets, err := p.budgets.List(labels.Everything())
	if err != nil {
		return nil, fwk.AsStatus(fmt.Errorf("list disruption budgets: %w", err))
	}
	hopeful, hopeless := split(pod, hopeful)
	candidates, refusals, err := p.dryRun(ctx, state, pod, hopeful, budgets, statuses)
	if err == nil {
		candidates, err = p.heedExtenders(pod, candidates)
	}
	if err != nil {
		return nil, fwk.AsStatus(err)
	}
	if len(candidates) == 0 {
		return &fwk.PostFilterResult{NominatingInfo: &fwk.NominatingInfo{NominatingMode: fwk.ModeOverride}},
			fwk.NewStatus(fwk.Unschedulable, "preemption: "+explain(refusals, hopeless, len(all)))
	}
	best := choose(candidates)
	p.preempt(ctx, pod, best)
	return &fwk.PostFilterResult{NominatingInfo: &fwk.NominatingInfo{NominatingMode: fwk.ModeOverride, NominatedNodeName: best.node}}, nil
}

// split separates the nodes that have pods of lower priority and counts the others.
func split(pod *corev1.Pod, nodes []fwk.NodeInfo) (withVictims []fwk.NodeInfo, without int) {
	withVictims = slices.DeleteFunc(nodes, func(n fwk.NodeInfo) bool {
		return !slices.ContainsFunc(n.GetPods(), func(p fwk.PodInfo) bool { return priority(p.GetPod()) < priority(pod) })
	})
	return withVictims, len(nodes) - len(withVictims)
}

func explain(refusals map[string]*fwk.Status, hopeless, numNodes int) string {
	d := profile.NewDiagnosis()
	d.NodeStatus = refusals
	d.Count(fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "No preemption victims found for incoming pod"), hopeless)
	d.Absent = fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "Preemption is not helpful for scheduling")
	return d.Explain(numNodes)
}

// ineligible says why the pod may not preempt, or "".
func (p *Plugin) ineligible(pod *corev1.Pod, statuses fwk.NodeToStatusReader) string {
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever {
		return "not eligible due to preemptionPolicy=Never."
	}
	node := pod.Status.NominatedNodeName
	if node == "" || statuses.Get(node).Code() == fwk.UnschedulableAndUnresolvable {
		return ""
	}
	info, err := p.handle.SnapshotSharedLister().NodeInfos().Get(node)
	if err != nil {
		return "" // the node is gone, so others must be looked at
	}
	for _, other := range info.GetPods() {
		if priority(other.GetPod()) < priority(pod) && beingPreempted(other.GetPod()) {
			return "not eligible due to a terminating pod on the nominated node."
		}
	}
	return ""
}

func beingPreempted(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp == nil {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget {
			return c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
		}
	}
	return false
}

func priority(pod *corev1.Pod) int32 { return corev1helpers.PodPriority(pod) }

// dryRun looks for nodes on which evictions help, starting at a random one and stopping when it has enough of them.
func (p *Plugin) dryRun(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo, budgets []*policyv1.PodDisruptionBudget, statuses fwk.NodeToStatusReader,
) (candidates []candidate, refusals map[string]*fwk.Status, failed error) {
	refusals = map[string]*fwk.Status{}
	if len(nodes) == 0 {
		return nil, refusals, nil
	}
	enough := min(max(len(nodes)*p.minPercentage/100, p.minAbsolute), len(nodes))
	offset := rand.IntN(len(nodes))
	nodes = slices.Concat(nodes[offset:], nodes[:offset])
	if _, err := state.Read(ByResources); err == nil {
		if candidates, nodes = p.byResources(pod, nodes, enough, budgets, statuses); suffices(candidates, enough) {
			return candidates, refusals, nil
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	p.handle.Parallelizer().Until(ctx, len(nodes), func(i int) {
		node := nodes[i].Snapshot()
		c, status := p.victims(ctx, state.Clone(), pod, node, budgets)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case status.IsError():
			failed = status.AsError()
			cancel()
		case !status.IsSuccess():
			refusals[node.Node().Name] = status
		default:
			candidates = append(candidates, c)
			if suffices(candidates, enough) {
				cancel()
			}
		}
	}, Name)
	if len(candidates) > 0 {
		failed = nil
	}
	return candidates, refusals, failed
}

// suffices says whether a search may end: there are enough candidates, and one of them breaks no budget.
func suffices(candidates []candidate, enough int) bool {
	return len(candidates) >= enough && slices.ContainsFunc(candidates, func(c candidate) bool { return c.violations == 0 })
}

// victims returns the pods to evict from a node, or a status that says why that does not help. It changes node and state, which
// are copies.
func (p *Plugin) victims(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo, budgets []*policyv1.PodDisruptionBudget) (candidate, *fwk.Status) {
	logger := loggerFrom(ctx)
	remove := func(info fwk.PodInfo) *fwk.Status {
		if err := node.RemovePod(logger, info.GetPod()); err != nil {
			return fwk.AsStatus(err)
		}
		return p.handle.RunPreFilterExtensionRemovePod(ctx, state, pod, info, node)
	}
	var lower []fwk.PodInfo
	for _, info := range node.GetPods() {
		if priority(info.GetPod()) < priority(pod) {
			lower = append(lower, info)
		}
	}
	for _, info := range lower {
		if status := remove(info); !status.IsSuccess() {
			return candidate{}, status
		}
	}
	if status := p.handle.RunFilterPluginsWithNominatedPods(ctx, state, pod, node); !status.IsSuccess() {
		return candidate{}, status
	}
	c := candidate{node: node.Node().Name}
	violating, others := splitByBudgets(lower, budgets)
	for i, info := range append(violating, others...) {
		node.AddPodInfo(info)
		if status := p.handle.RunPreFilterExtensionAddPod(ctx, state, pod, info, node); !status.IsSuccess() {
			return candidate{}, status
		}
		if p.handle.RunFilterPluginsWithNominatedPods(ctx, state, pod, node).IsSuccess() {
			continue // it can stay
		}
		if status := remove(info); !status.IsSuccess() {
			return candidate{}, status
		}
		c.victims = append(c.victims, info.GetPod())
		if i < len(violating) {
			c.violations++
		}
	}
	if len(c.victims) == 0 {
		return candidate{}, fwk.AsStatus(fmt.Errorf("expected at least one victim pod on node %q", c.node))
	}
	return c, nil
}
