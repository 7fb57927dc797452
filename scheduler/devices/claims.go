package devices

import (
	"fmt"

	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/structured"
)

// pending is an allocation that is decided and not written yet, for the pods of so many Reserve calls.
type pending struct {
	claim *resourceapi.ResourceClaim
	users int
}

func (m *Manager) over(listed *resourceapi.ResourceClaim) *resourceapi.ResourceClaim {
	return m.assumed.Over(listed)
}

// List implements fwk.ResourceClaimTracker.
func (m *Manager) List() ([]*resourceapi.ResourceClaim, error) {
	listed, err := m.claims.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	out := make([]*resourceapi.ResourceClaim, len(listed))
	for i, claim := range listed {
		out[i] = m.over(claim)
	}
	return out, nil
}

// Get implements fwk.ResourceClaimTracker.
func (m *Manager) Get(namespace, name string) (*resourceapi.ResourceClaim, error) {
	claim, err := m.claims.ResourceClaims(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	return m.over(claim), nil
}

// ListAllAllocatedDevices implements fwk.ResourceClaimTracker.
func (m *Manager) ListAllAllocatedDevices() (sets.Set[structured.DeviceID], error) {
	state, err := m.GatherAllocatedState()
	if err != nil {
		return nil, err
	}
	return state.AllocatedDevices, nil
}

// GatherAllocatedState implements fwk.ResourceClaimTracker: the devices of all claims, those that are only decided included.
func (m *Manager) GatherAllocatedState() (*structured.AllocatedState, error) {
	// The pending ones first: one that is written in between is seen twice then, and not missed.
	m.mu.Lock()
	decided := make(map[types.UID]*resourceapi.ResourceClaim, len(m.pending))
	for uid, p := range m.pending {
		decided[uid] = p.claim
	}
	m.mu.Unlock()
	all, err := m.List()
	if err != nil {
		return nil, err
	}
	taken := &structured.AllocatedState{
		AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity: structured.NewConsumedCapacityCollection(),
	}
	for _, claim := range all {
		if _, ok := decided[claim.UID]; !ok {
			take(taken, claim)
		}
	}
	for _, claim := range decided {
		take(taken, claim)
	}
	return taken, nil
}

// take counts a claim's devices. Access for administrators takes nothing.
func take(into *structured.AllocatedState, claim *resourceapi.ResourceClaim) {
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

// SignalClaimPendingAllocation implements fwk.ResourceClaimTracker.
func (m *Manager) SignalClaimPendingAllocation(uid types.UID, claim *resourceapi.ResourceClaim) error {
	if claim == nil || claim.Status.Allocation == nil {
		return fmt.Errorf("claim %s has no allocation that could be pending", uid)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p, ok := m.pending[uid]; ok {
		p.users++
		return nil
	}
	m.pending[uid] = &pending{claim: claim, users: 1}
	return nil
}

// GetPendingAllocation implements fwk.ResourceClaimTracker.
func (m *Manager) GetPendingAllocation(uid types.UID) *resourceapi.AllocationResult {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p, ok := m.pending[uid]; ok {
		return p.claim.Status.Allocation
	}
	return nil
}

// MaybeRemoveClaimPendingAllocation implements fwk.ResourceClaimTracker.
func (m *Manager) MaybeRemoveClaimPendingAllocation(uid types.UID, force bool) (deleted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.pending[uid]
	if !ok {
		return false
	}
	if p.users--; p.users > 0 && !force {
		return false
	}
	delete(m.pending, uid)
	return true
}

// AssumeClaimAfterAPICall implements fwk.ResourceClaimTracker.
func (m *Manager) AssumeClaimAfterAPICall(claim *resourceapi.ResourceClaim) error {
	m.assumed.Set(claim)
	return nil
}

// AssumedClaimRestore implements fwk.ResourceClaimTracker.
func (m *Manager) AssumedClaimRestore(namespace, name string) {
	m.assumed.Drop(&resourceapi.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
}
