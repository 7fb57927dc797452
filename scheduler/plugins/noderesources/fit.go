// Package noderesources refuses nodes without room for a pod's requests and scores the others by how full they would be.
package noderesources

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/plugins/hint"
)

// FitName is the name of the plugin that filters and scores by requests.
const FitName = "NodeResourcesFit"

const fitKey fwk.StateKey = "PreFilter" + FitName

// Fit is the plugin that filters and scores by requests.
type Fit struct {
	ignored       sets.Set[string]
	ignoredGroups sets.Set[string]
	scorer
}

// NewFit makes the plugin. Without configuration it prefers the least allocated node, by CPU and memory.
func NewFit(_ context.Context, args runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	a, ok := args.(*configv1.NodeResourcesFitArgs)
	if !ok {
		a = &configv1.NodeResourcesFitArgs{}
	}
	f := &Fit{ignored: sets.New(a.IgnoredResources...), ignoredGroups: sets.New(a.IgnoredResourceGroups...)}
	strategy := a.ScoringStrategy
	if strategy == nil {
		strategy = &configv1.ScoringStrategy{Type: configv1.LeastAllocated}
	}
	formula, err := formulaOf(strategy)
	if err != nil {
		return nil, err
	}
	f.scorer = newScorer(h, strategy.Resources, formula)
	return f, nil
}

// Name implements fwk.Plugin.
func (*Fit) Name() string { return FitName }

type request struct{ nodeinfo.Resource }

// Clone implements fwk.StateData.
func (r *request) Clone() fwk.StateData { return r }

// PreFilter implements fwk.PreFilterPlugin.
func (*Fit) PreFilter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	state.Write(fitKey, &request{nodeinfo.NewResource(nodeinfo.PodRequests(pod))})
	return nil, nil
}

// PreFilterExtensions implements fwk.PreFilterPlugin: the sums are the node's own.
func (*Fit) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter implements fwk.FilterPlugin.
func (f *Fit) Filter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	need, err := state.Read(fitKey)
	if err != nil {
		need = &request{nodeinfo.NewResource(nodeinfo.PodRequests(pod))} // a caller that runs filters alone
	}
	reasons, unresolvable := f.insufficient(&need.(*request).Resource, node)
	return refusal(reasons, unresolvable)
}

func refusal(reasons []string, unresolvable bool) *fwk.Status {
	if len(reasons) == 0 {
		return nil
	}
	code := fwk.Unschedulable
	if unresolvable {
		code = fwk.UnschedulableAndUnresolvable
	}
	return fwk.NewStatus(code, reasons...).WithPlugin(FitName)
}

// column is Fit for pods with one request.
type column struct {
	fit   *Fit
	table *columns.Table
	need  nodeinfo.Resource
	// known are the refusals given so far, by their wording.
	known map[string]*fwk.Status
}

// LocalFilter implements columns.LocalFilter.
func (f *Fit) LocalFilter(t *columns.Table, pod fwk.PodInfo) columns.Filter {
	return &column{f, t, nodeinfo.NewResource(nodeinfo.PodRequests(pod.GetPod())), map[string]*fwk.Status{}}
}

// Refuse implements columns.Filter. The columns say whether a node has room; the reasons are worded only for one that has not.
func (c *column) Refuse(slots []int32, refused []*fwk.Status) {
	t, special := c.table, len(c.need.ScalarResources) > 0
	full := func(r *columns.Capacity, slot int32, need int64) bool {
		return need > 0 && need > r.Total[slot]-r.Used[slot]
	}
	for _, slot := range slots {
		if refused[slot] != nil {
			continue
		}
		if special || t.Pods.Used[slot] >= t.Pods.Total[slot] || full(&t.CPU, slot, c.need.MilliCPU) ||
			full(&t.Memory, slot, c.need.Memory) || full(&t.Storage, slot, c.need.EphemeralStorage) {
			refused[slot] = c.refusal(t.Nodes[slot])
		}
	}
}

func (c *column) refusal(node fwk.NodeInfo) *fwk.Status {
	reasons, unresolvable := c.fit.insufficient(&c.need, node)
	key := fmt.Sprint(unresolvable, reasons)
	status, ok := c.known[key]
	if !ok {
		status = refusal(reasons, unresolvable)
		c.known[key] = status
	}
	return status
}

// ByCapacity implements columns.ByCapacity.
func (c *column) ByCapacity() bool { return len(c.need.ScalarResources) == 0 }

// OfNode implements columns.Filter.
func (*column) OfNode() bool { return false }

// insufficient lists what a node lacks for a request. It is unresolvable if the node would lack it when it were empty.
func (f *Fit) insufficient(need *nodeinfo.Resource, node fwk.NodeInfo) (reasons []string, unresolvable bool) {
	allocatable, requested := node.GetAllocatable(), node.GetRequested()
	if len(node.GetPods())+1 > allocatable.GetAllowedPodNumber() {
		reasons = append(reasons, "Too many pods")
	}
	check := func(name corev1.ResourceName, want int64) {
		total := nodeinfo.OfInterface(allocatable, name)
		if want == 0 || want <= total-nodeinfo.OfInterface(requested, name) {
			return
		}
		reasons = append(reasons, "Insufficient "+string(name))
		unresolvable = unresolvable || want > total
	}
	check(corev1.ResourceCPU, need.MilliCPU)
	check(corev1.ResourceMemory, need.Memory)
	check(corev1.ResourceEphemeralStorage, need.EphemeralStorage)
	for _, name := range sets.List(sets.KeySet(need.ScalarResources)) {
		if !f.ignores(name) && !f.fromDevices(name, allocatable) {
			check(name, need.ScalarResources[name])
		}
	}
	return reasons, unresolvable
}

func (f *Fit) ignores(name corev1.ResourceName) bool {
	if f.ignored.Has(string(name)) {
		return true
	}
	group, _, found := strings.Cut(string(name), "/")
	return found && f.ignoredGroups.Has(group)
}

// fromDevices says that the resource is not the node's own, and that a device class stands for it: the devices are the business of
// DynamicResources.
func (f *Fit) fromDevices(name corev1.ResourceName, allocatable fwk.Resource) bool {
	return f.dra != nil && allocatable.GetScalarResources()[name] == 0 && f.dra.DeviceClassResolver().GetDeviceClass(name) != nil
}

// EventsToRegister implements fwk.EnqueueExtensions.
func (f *Fit) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.On(fwk.Node, fwk.Add|fwk.UpdateNodeAllocatable, func(pod *corev1.Pod, old, node *corev1.Node) bool {
			return node != nil && f.mayHelp(pod, old, node)
		}),
		hint.Always(fwk.AssignedPod, fwk.Delete|fwk.UpdatePodScaleDown),
		hint.Always(fwk.TargetPod, fwk.UpdatePodScaleDown),
		hint.On(fwk.DeviceClass, fwk.Add|fwk.Update, func(pod *corev1.Pod, _, class *resourceapi.DeviceClass) bool {
			need := nodeinfo.NewResource(nodeinfo.PodRequests(pod)).ScalarResources
			return need[corev1.ResourceName(resourceapi.ResourceDeviceClassPrefix+class.Name)] > 0 ||
				class.Spec.ExtendedResourceName != nil && need[corev1.ResourceName(*class.Spec.ExtendedResourceName)] > 0
		}),
	}, nil
}

// mayHelp says whether an empty node of this size takes the pod and, for a node that was there before, something that the pod
// asks for has grown.
func (f *Fit) mayHelp(pod *corev1.Pod, old, node *corev1.Node) bool {
	need := nodeinfo.NewResource(nodeinfo.PodRequests(pod))
	empty := nodeinfo.New()
	empty.SetNode(node)
	if reasons, _ := f.insufficient(&need, empty); len(reasons) > 0 {
		return false
	}
	if old == nil {
		return true
	}
	before, after := nodeinfo.NewResource(old.Status.Allocatable), nodeinfo.NewResource(node.Status.Allocatable)
	if after.AllowedPodNumber > before.AllowedPodNumber {
		return true
	}
	grown := func(name corev1.ResourceName) bool {
		return need.Of(name) > 0 && after.Of(name) > before.Of(name)
	}
	for name := range need.ScalarResources {
		if grown(name) {
			return true
		}
	}
	return grown(corev1.ResourceCPU) || grown(corev1.ResourceMemory) || grown(corev1.ResourceEphemeralStorage)
}

func formulaOf(s *configv1.ScoringStrategy) (formula, error) {
	switch s.Type {
	case configv1.LeastAllocated, "":
		return leastAllocated, nil
	case configv1.MostAllocated:
		return mostAllocated, nil
	case configv1.RequestedToCapacityRatio:
		if s.RequestedToCapacityRatio == nil || len(s.RequestedToCapacityRatio.Shape) == 0 {
			return nil, fmt.Errorf("scoringStrategy %s needs a shape", s.Type)
		}
		return capacityRatio(s.RequestedToCapacityRatio.Shape), nil
	default:
		return nil, fmt.Errorf("scoringStrategy %q is unknown", s.Type)
	}
}
