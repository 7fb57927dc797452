// Package dynamicresources allocates devices for a pod's ResourceClaims (dynamic resource allocation with structured parameters).
//
// PreFilter looks at the claims, Filter tries an allocation on each node, Reserve notes the one of the chosen node in memory, so
// that no other pod gets the same devices, and PreBind writes it into the claims. What devices fit is decided by the allocator of
// k8s.io/dynamic-resource-allocation, the one that upstream uses.
package dynamicresources

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/plugins/assume"
	"keelson.dev/scheduler/plugins/hint"
)

// Name is the plugin's name.
const Name = "DynamicResources"

const stateKey fwk.StateKey = Name

// celCacheSize bounds the compiled selectors; they come from device classes and claims, of which few differ.
const celCacheSize = 100

// features are what the allocator supports here.
func features() structured.Features {
	return structured.Features{AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true, ConsumableCapacity: true}
}

// Plugin is the plugin.
type Plugin struct {
	handle        fwk.Handle
	claims        resourcelisters.ResourceClaimLister
	slices        resourcelisters.ResourceSliceLister
	classes       classLister
	cel           *cel.Cache
	filterTimeout time.Duration
	assumed       *assume.Overlay[*resourceapi.ResourceClaim]

	mu sync.Mutex
	// pending are the allocations that are decided and not written yet, by claim.
	pending map[types.UID]*resourceapi.ResourceClaim
}

// New makes the plugin.
func New(_ context.Context, args runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	f := h.SharedInformerFactory().Resource().V1()
	p := &Plugin{
		handle: h, claims: f.ResourceClaims().Lister(), slices: f.ResourceSlices().Lister(), classes: classLister{f.DeviceClasses().Lister()},
		cel:           cel.NewCache(celCacheSize, cel.Features{EnableConsumableCapacity: true}),
		filterTimeout: configv1.DynamicResourcesFilterTimeoutDefault,
		assumed:       assume.NewOverlay[*resourceapi.ResourceClaim](),
		pending:       map[types.UID]*resourceapi.ResourceClaim{},
	}
	if a, ok := args.(*configv1.DynamicResourcesArgs); ok && a.FilterTimeout != nil {
		p.filterTimeout = a.FilterTimeout.Duration
	}
	return p, nil
}

// classLister adapts the lister to the allocator.
type classLister struct {
	lister resourcelisters.DeviceClassLister
}

// List implements structured.DeviceClassLister.
func (c classLister) List() ([]*resourceapi.DeviceClass, error) {
	return c.lister.List(labels.Everything())
}

// Get implements structured.DeviceClassLister.
func (c classLister) Get(name string) (*resourceapi.DeviceClass, error) { return c.lister.Get(name) }

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

// EventsToRegister implements fwk.EnqueueExtensions.
func (p *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.Always(fwk.Node, fwk.Add|fwk.UpdateNodeLabel|fwk.UpdateNodeTaint),
		// Any claim that is freed may free the devices that this pod needs.
		hint.On(fwk.ResourceClaim, fwk.Add|fwk.Update|fwk.Delete, func(pod *corev1.Pod, old, claim *resourceapi.ResourceClaim) bool {
			freed := old != nil && old.Status.Allocation != nil && (claim == nil || claim.Status.Allocation == nil)
			return freed || (claim != nil && uses(pod, claim))
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
		claim, err := p.claims.ResourceClaims(pod.Namespace).Get(*name)
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
		out = append(out, p.assumed.Over(claim))
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

	mu          *sync.Mutex
	allocations map[string][]resourceapi.AllocationResult // by node, in the order of missing
	unavailable map[types.UID]bool                        // claims whose devices are not reachable from some node
}

// Clone implements fwk.StateData. A clone serves a dry run for the same claims.
func (s *cycleState) Clone() fwk.StateData { return s }

// PreFilter implements fwk.PreFilterPlugin.
func (p *Plugin) PreFilter(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	if len(pod.Spec.ResourceClaims) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	refuse := func(format string, args ...any) (*fwk.PreFilterResult, *fwk.Status) {
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fmt.Sprintf(format, args...))
	}
	claims, err := p.claimsOf(pod)
	if err != nil {
		return refuse("%v", err)
	}
	s := &cycleState{claims: claims, mu: &sync.Mutex{}, allocations: map[string][]resourceapi.AllocationResult{}, unavailable: map[types.UID]bool{}}
	for _, claim := range claims {
		if p.isPending(claim.UID) {
			return nil, fwk.NewStatus(fwk.Unschedulable, fmt.Sprintf("resourceclaim %q is in the process of being allocated", claim.Name))
		}
		var selector *nodeaffinity.NodeSelector
		if a := claim.Status.Allocation; a != nil {
			if !resourceclaim.IsReservedForPod(pod, claim, false) && len(claim.Status.ReservedFor) >= resourceapi.ResourceClaimReservedForMaxSize {
				return nil, fwk.NewStatus(fwk.Unschedulable, fmt.Sprintf("resourceclaim %q is in use", claim.Name))
			}
			if a.NodeSelector != nil {
				if selector, err = nodeaffinity.NewNodeSelector(a.NodeSelector); err != nil {
					return nil, fwk.AsStatus(fmt.Errorf("parse node selector of claim %s: %w", claim.Name, err))
				}
			}
		} else {
			if class := p.missingClass(claim); class != "" {
				return refuse("request in resourceclaim %q: device class %s does not exist", claim.Name, class)
			}
			s.missing = append(s.missing, claim)
		}
		s.where = append(s.where, selector)
	}
	if len(s.missing) > 0 {
		if s.allocator, err = p.newAllocator(ctx); err != nil {
			return nil, fwk.AsStatus(err)
		}
	}
	state.Write(stateKey, s)
	return nil, nil
}

func (p *Plugin) isPending(uid types.UID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pending[uid] != nil
}

// missingClass names a device class that a claim asks for and that is not there.
func (p *Plugin) missingClass(claim *resourceapi.ResourceClaim) string {
	for _, r := range claim.Spec.Devices.Requests {
		if r.Exactly != nil {
			if _, err := p.classes.Get(r.Exactly.DeviceClassName); apierrors.IsNotFound(err) {
				return r.Exactly.DeviceClassName
			}
		}
		for _, sub := range r.FirstAvailable {
			if _, err := p.classes.Get(sub.DeviceClassName); apierrors.IsNotFound(err) {
				return sub.DeviceClassName
			}
		}
	}
	return ""
}

// newAllocator makes an allocator that knows which devices are taken.
func (p *Plugin) newAllocator(ctx context.Context) (structured.Allocator, error) {
	all, err := p.claims.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	taken := structured.AllocatedState{
		AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity: structured.NewConsumedCapacityCollection(),
	}
	p.mu.Lock()
	pending := maps.Clone(p.pending)
	p.mu.Unlock()
	for _, claim := range all {
		if _, ok := pending[claim.UID]; !ok {
			take(taken, p.assumed.Over(claim))
		}
	}
	for _, claim := range pending {
		take(taken, claim)
	}
	devices, err := p.slices.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list resource slices: %w", err)
	}
	allocator, err := structured.NewAllocator(ctx, features(), taken, p.classes, devices, p.cel)
	if err != nil {
		return nil, fmt.Errorf("make allocator: %w", err)
	}
	return allocator, nil
}

// take counts a claim's devices. Access for administrators takes nothing.
func take(into structured.AllocatedState, claim *resourceapi.ResourceClaim) {
	if claim.Status.Allocation == nil {
		return
	}
	for _, r := range claim.Status.Allocation.Devices.Results {
		if r.AdminAccess != nil && *r.AdminAccess {
			continue
		}
		id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
		if r.ShareID == nil {
			into.AllocatedDevices.Insert(id)
			continue
		}
		into.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, r.ShareID))
		into.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity))
	}
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (*Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter implements fwk.FilterPlugin.
func (p *Plugin) Filter(ctx context.Context, state fwk.CycleState, _ *corev1.Pod, info fwk.NodeInfo) *fwk.Status {
	s, err := read(state)
	if err != nil {
		return fwk.AsStatus(err)
	}
	node := info.Node()
	for i, selector := range s.where {
		if selector != nil && !selector.Match(node) {
			s.mu.Lock()
			s.unavailable[s.claims[i].UID] = true
			s.mu.Unlock()
			return fwk.NewStatus(fwk.Unschedulable, "resourceclaim not available on the node")
		}
	}
	if len(s.missing) == 0 {
		return nil
	}
	if p.filterTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.filterTimeout)
		defer cancel()
	}
	results, err := s.allocator.Allocate(ctx, node, s.missing)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fwk.NewStatus(fwk.Unschedulable, "timed out trying to allocate devices")
	case errors.Is(err, context.Canceled):
		return fwk.NewStatus(fwk.Unschedulable, fmt.Sprintf("asked by caller to stop allocating devices: %v", context.Cause(ctx)))
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, err.Error())
	case err != nil:
		return fwk.AsStatus(fmt.Errorf("allocate devices: %w", err))
	case len(results) == 0:
		return fwk.NewStatus(fwk.Unschedulable, "cannot allocate all claims")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allocations[node.Name] = results
	return nil
}

func read(state fwk.CycleState) (*cycleState, error) {
	data, err := state.Read(stateKey)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", stateKey, err)
	}
	return data.(*cycleState), nil
}
