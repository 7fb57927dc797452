// Package dynamicresources allocates devices for a pod's ResourceClaims (dynamic resource allocation with structured parameters).
//
// PreFilter looks at the claims, Filter tries an allocation on each node, Reserve notes the one of the chosen node in memory, so
// that no other pod gets the same devices, and PreBind writes it into the claims and waits until the devices may be bound. What
// devices fit is decided by the allocator of k8s.io/dynamic-resource-allocation, the one that upstream uses.
package dynamicresources

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/klog/v2"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/plugins/assume"
	"keelson.dev/scheduler/plugins/hint"
	"keelson.dev/scheduler/plugins/normalize"
)

// Name is the plugin's name.
const Name = "DynamicResources"

const stateKey fwk.StateKey = Name

// celCacheSize bounds the compiled selectors; they come from device classes and claims, of which few differ.
const celCacheSize = 100

// features are what the allocator supports here: what is on by default in 1.37.
func features() structured.Features {
	return structured.Features{
		AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true, ConsumableCapacity: true,
		DeviceBindingAndStatus: true, FractionalCapacityRange: true,
	}
}

// Plugin is the plugin.
type Plugin struct {
	handle         fwk.Handle
	dra            fwk.SharedDRAManager
	cel            *cel.Cache
	filterTimeout  time.Duration
	bindingTimeout time.Duration
	changed        *assume.Signal // raised by every change of a claim
}

// New makes the plugin.
func New(_ context.Context, args runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	p := &Plugin{
		handle: h, dra: h.SharedDRAManager(),
		cel:            cel.NewCache(celCacheSize, cel.Features{EnableConsumableCapacity: true}),
		filterTimeout:  configv1.DynamicResourcesFilterTimeoutDefault,
		bindingTimeout: configv1.DynamicResourcesBindingTimeoutDefault,
		changed:        assume.NewSignal(),
	}
	if a, ok := args.(*configv1.DynamicResourcesArgs); ok {
		if a.FilterTimeout != nil {
			p.filterTimeout = a.FilterTimeout.Duration
		}
		if a.BindingTimeout != nil {
			p.bindingTimeout = a.BindingTimeout.Duration
		}
	}
	_, err := h.SharedInformerFactory().Resource().V1().ResourceClaims().Informer().AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { p.changed.Raise() }, UpdateFunc: func(any, any) { p.changed.Raise() }, DeleteFunc: func(any) { p.changed.Raise() },
	})
	if err != nil {
		return nil, fmt.Errorf("watch claims: %w", err)
	}
	return p, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

// EventsToRegister implements fwk.EnqueueExtensions.
func (p *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.Always(fwk.Node, fwk.Add|fwk.UpdateNodeLabel|fwk.UpdateNodeTaint|fwk.UpdateNodeAllocatable),
		// Any claim that is freed may free the devices that this pod needs.
		hint.On(fwk.ResourceClaim, fwk.Add|fwk.Update|fwk.Delete, func(pod *corev1.Pod, old, claim *resourceapi.ResourceClaim) bool {
			freed := old != nil && old.Status.Allocation != nil && (claim == nil || claim.Status.Allocation == nil)
			return freed || claim != nil && uses(pod, claim) || claim == nil && old != nil && isOwned(old, pod)
		}),
		hint.Always(fwk.TargetPod, fwk.UpdatePodGeneratedResourceClaim),
		hint.Always(fwk.DeviceClass, fwk.Add|fwk.Update),
		hint.Always(fwk.ResourceSlice, fwk.Add|fwk.Update),
	}, nil
}

func uses(pod *corev1.Pod, claim *resourceapi.ResourceClaim) bool {
	if pod.Namespace != claim.Namespace {
		return false
	}
	for i := range pod.Spec.ResourceClaims {
		name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if errors.Is(err, resourceclaim.ErrClaimNotFound) || (name != nil && *name == claim.Name) {
			return true
		}
	}
	return false
}

// PreEnqueue implements fwk.PreEnqueuePlugin: the pod waits until its claims have been made.
func (p *Plugin) PreEnqueue(_ context.Context, pod *corev1.Pod) *fwk.Status {
	if _, err := p.claimsOf(pod); err != nil {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, err.Error())
	}
	return nil
}

// claimsOf returns the pod's claims as they are or will be.
func (p *Plugin) claimsOf(pod *corev1.Pod) ([]*resourceapi.ResourceClaim, error) {
	var out []*resourceapi.ResourceClaim
	for i := range pod.Spec.ResourceClaims {
		name, mustOwn, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name == nil {
			continue // the template made none
		}
		claim, err := p.dra.ResourceClaims().Get(pod.Namespace, *name)
		if err != nil {
			return nil, err
		}
		if claim.DeletionTimestamp != nil {
			return nil, fmt.Errorf("resourceclaim %q is being deleted", claim.Name)
		}
		if mustOwn {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return nil, err
			}
		}
		out = append(out, claim)
	}
	return out, nil
}

// cycleState is what one pod needs.
type cycleState struct {
	claims []*resourceapi.ResourceClaim
	// where the claims that have devices already can be used; nil is everywhere.
	where []*nodeaffinity.NodeSelector
	// missing are the claims without devices, allocator finds them some.
	missing   []*resourceapi.ResourceClaim
	allocator structured.Allocator
	// backed are the pod's extended resources that device classes stand for, leftover is the claim for them of an earlier attempt.
	backed   []corev1.ResourceName
	leftover *resourceapi.ResourceClaim

	mu          sync.Mutex
	found       map[string]*allocation // by node
	unavailable map[types.UID]bool     // claims whose devices are not to be had on some node

	// made is the claim for extended resources after PreBind has created it.
	made *resourceapi.ResourceClaim
}

// allocation is what a pod gets on one node.
type allocation struct {
	claims   []*resourceapi.ResourceClaim // missing ones, then the one for extended resources, if it is needed
	results  []resourceapi.AllocationResult
	mappings []corev1.ContainerExtendedResourceRequest
}

// extended is the claim for extended resources, nil if the pod has none on the node.
func (a *allocation) extended() *resourceapi.ResourceClaim {
	if a == nil || len(a.mappings) == 0 {
		return nil
	}
	return a.claims[len(a.claims)-1]
}

// Clone implements fwk.StateData. A clone serves a dry run for the same claims.
func (s *cycleState) Clone() fwk.StateData { return s }

// refuse says that the pod must wait until something besides pods changes.
func refuse(format string, args ...any) *fwk.Status {
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fmt.Sprintf(format, args...))
}

// PreFilter implements fwk.PreFilterPlugin.
func (p *Plugin) PreFilter(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	backed := p.backed(pod)
	if len(pod.Spec.ResourceClaims) == 0 && len(backed) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	claims, err := p.claimsOf(pod)
	if err != nil {
		return nil, refuse("%v", err)
	}
	s := &cycleState{claims: claims, backed: backed, found: map[string]*allocation{}, unavailable: map[types.UID]bool{}}
	state.Write(stateKey, s)
	if len(backed) > 0 {
		if s.leftover, err = p.ownedClaim(pod); err != nil {
			return nil, fwk.AsStatus(err)
		}
	}
	for _, claim := range claims {
		selector, status := p.look(pod, claim)
		if !status.IsSuccess() {
			return nil, status
		}
		s.where = append(s.where, selector)
		if claim.Status.Allocation == nil {
			s.missing = append(s.missing, claim)
		}
	}
	if len(s.missing)+len(backed) > 0 {
		if s.allocator, err = p.newAllocator(ctx); err != nil {
			return nil, fwk.AsStatus(err)
		}
	}
	return nil, nil
}

// look says whether the pod can have a claim: where it has its devices, or else why it cannot get any.
func (p *Plugin) look(pod *corev1.Pod, claim *resourceapi.ResourceClaim) (*nodeaffinity.NodeSelector, *fwk.Status) {
	a := claim.Status.Allocation
	if a == nil {
		if p.dra.ResourceClaims().GetPendingAllocation(claim.UID) != nil {
			return nil, refuse("resource claim %s is in the process of being allocated", klog.KObj(claim))
		}
		return nil, p.missingClass(claim)
	}
	if !resourceclaim.CanBeReserved(claim) && !resourceclaim.IsReservedForPod(pod, claim, false) {
		return nil, refuse("resourceclaim in use")
	}
	if a.NodeSelector == nil {
		return nil, nil
	}
	selector, err := nodeaffinity.NewNodeSelector(a.NodeSelector)
	if err != nil {
		return nil, fwk.AsStatus(fmt.Errorf("parse node selector of claim %s: %w", claim.Name, err))
	}
	return selector, nil
}

// missingClass names a device class that a claim asks for and that is not there.
func (p *Plugin) missingClass(claim *resourceapi.ResourceClaim) *fwk.Status {
	check := func(request, class string) *fwk.Status {
		if _, err := p.dra.DeviceClasses().Get(class); apierrors.IsNotFound(err) {
			return refuse("request %s: device class %s does not exist", request, class)
		}
		return nil
	}
	for _, r := range claim.Spec.Devices.Requests {
		if r.Exactly != nil {
			if status := check(r.Name, r.Exactly.DeviceClassName); status != nil {
				return status
			}
		}
		for _, sub := range r.FirstAvailable {
			if status := check(r.Name+"/"+sub.Name, sub.DeviceClassName); status != nil {
				return status
			}
		}
	}
	return nil
}

// newAllocator makes an allocator that knows which devices are taken.
func (p *Plugin) newAllocator(ctx context.Context) (structured.Allocator, error) {
	taken, err := p.dra.ResourceClaims().GatherAllocatedState()
	if err != nil {
		return nil, err
	}
	devices, err := p.dra.ResourceSlices().ListWithDeviceTaintRules()
	if err != nil {
		return nil, fmt.Errorf("list resource slices: %w", err)
	}
	allocator, err := structured.NewAllocator(ctx, features(), *taken, p.dra.DeviceClasses(), devices, p.cel)
	if err != nil {
		return nil, fmt.Errorf("make allocator: %w", err)
	}
	return allocator, nil
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (*Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter implements fwk.FilterPlugin.
func (p *Plugin) Filter(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, info fwk.NodeInfo) *fwk.Status {
	s, err := read(state)
	if err != nil {
		return fwk.AsStatus(err)
	}
	if s.leftover != nil {
		return refuse("cannot schedule extended resource claim")
	}
	if p.markUnavailable(s, info.Node()) {
		return refuse("resourceclaim not available on the node")
	}
	a := &allocation{claims: slices.Clone(s.missing)}
	if len(s.backed) > 0 {
		claim, mappings := p.claimFor(pod, s.backed, info)
		if claim != nil {
			a.claims, a.mappings = append(a.claims, claim), mappings
		}
	}
	if len(a.claims) == 0 {
		return nil
	}
	if status := p.allocate(ctx, s, info.Node(), a); !status.IsSuccess() {
		return status
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found[info.Node().Name] = a
	return nil
}

// markUnavailable notes the claims that have devices which the pod cannot use on the node, or nowhere any more.
func (p *Plugin) markUnavailable(s *cycleState, node *corev1.Node) (any bool) {
	for i, claim := range s.claims {
		if claim.Status.Allocation == nil {
			continue
		}
		_, lost := p.ready(claim, time.Now())
		if lost == nil && (s.where[i] == nil || s.where[i].Match(node)) {
			continue
		}
		any = true
		s.mu.Lock()
		s.unavailable[claim.UID] = true
		s.mu.Unlock()
	}
	return any
}

// allocate finds devices for the claims on a node.
func (p *Plugin) allocate(ctx context.Context, s *cycleState, node *corev1.Node, a *allocation) *fwk.Status {
	within := ctx
	if p.filterTimeout > 0 {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeout(ctx, p.filterTimeout)
		defer cancel()
	}
	results, err := s.allocator.Allocate(within, node, a.claims)
	switch {
	case errors.Is(err, context.DeadlineExceeded): // an error, so that the pod is tried again though nothing changes
		return fwk.AsStatus(fmt.Errorf("node %s: timed out trying to allocate devices", node.Name))
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return refuse("%v", err)
	case ctx.Err() != nil:
		return refuse("asked by caller to stop allocating devices: %v", context.Cause(ctx))
	case err != nil:
		return fwk.AsStatus(fmt.Errorf("allocate devices: %w", err))
	case len(results) != len(a.claims):
		return refuse("cannot allocate all claims")
	}
	a.results = results
	return nil
}

// Score implements fwk.ScorePlugin: of alternatives in a request those that stand first are better.
func (p *Plugin) Score(_ context.Context, state fwk.CycleState, _ *corev1.Pod, info fwk.NodeInfo) (int64, *fwk.Status) {
	s, err := read(state)
	if err != nil {
		return 0, nil // a pod without claims has no state
	}
	a := s.found[info.Node().Name]
	if a == nil {
		return 0, nil
	}
	var score int64
	for i, claim := range a.claims {
		score += preference(claim, &a.results[i])
	}
	for _, claim := range s.claims {
		if claim.Status.Allocation != nil {
			score += preference(claim, claim.Status.Allocation)
		}
	}
	return score, nil
}

func preference(claim *resourceapi.ResourceClaim, got *resourceapi.AllocationResult) (score int64) {
	for _, r := range claim.Spec.Devices.Requests {
		for i, sub := range r.FirstAvailable {
			ref := resourceclaim.CreateSubRequestRef(r.Name, sub.Name)
			if slices.ContainsFunc(got.Devices.Results, func(d resourceapi.DeviceRequestAllocationResult) bool { return d.Request == ref }) {
				score += int64(resourceapi.FirstAvailableDeviceRequestMaxSize - i)
			}
		}
	}
	return score
}

// ScoreFollowsFilter implements profile.ScoreFollowsFilter.
func (*Plugin) ScoreFollowsFilter() {}

// ScoreExtensions implements fwk.ScorePlugin.
func (p *Plugin) ScoreExtensions() fwk.ScoreExtensions { return p }

// NormalizeScore implements fwk.ScoreExtensions.
func (*Plugin) NormalizeScore(_ context.Context, _ fwk.CycleState, _ *corev1.Pod, scores fwk.NodeScoreList) *fwk.Status {
	normalize.Linear(false, scores)
	return nil
}

func read(state fwk.CycleState) (*cycleState, error) {
	data, err := state.Read(stateKey)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", stateKey, err)
	}
	return data.(*cycleState), nil
}
