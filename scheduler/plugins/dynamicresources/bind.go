package dynamicresources

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
)

// PostFilter implements fwk.PostFilterPlugin: a claim whose devices are out of reach and that nobody uses gives them back, so that
// it can get others.
func (p *Plugin) PostFilter(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, _ fwk.NodeToStatusReader) (*fwk.PostFilterResult, *fwk.Status) {
	s, err := read(state)
	if err != nil {
		return nil, fwk.NewStatus(fwk.Unschedulable)
	}
	for _, claim := range s.claims {
		others := slices.ContainsFunc(claim.Status.ReservedFor, func(r resourceapi.ResourceClaimConsumerReference) bool { return r.UID != pod.UID })
		if !s.unavailable[claim.UID] || others {
			continue
		}
		freed := claim.DeepCopy()
		freed.Status.ReservedFor, freed.Status.Allocation = nil, nil
		if _, err := p.handle.ClientSet().ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, freed, metav1.UpdateOptions{}); err != nil {
			return nil, fwk.AsStatus(fmt.Errorf("deallocate claim %s: %w", claim.Name, err))
		}
		return nil, fwk.NewStatus(fwk.Unschedulable, "deallocation of ResourceClaim completed")
	}
	return nil, fwk.NewStatus(fwk.Unschedulable)
}

// Reserve implements fwk.ReservePlugin.
func (p *Plugin) Reserve(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node string) *fwk.Status {
	s, err := read(state)
	if err != nil || len(s.missing) == 0 {
		return nil // a pod without claims has no state
	}
	results, ok := s.allocations[node]
	if !ok || len(results) != len(s.missing) {
		return fwk.AsStatus(fmt.Errorf("no allocation was found for node %s", node))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, claim := range s.missing {
		allocated := claim.DeepCopy()
		allocated.Status.Allocation = &results[i]
		p.pending[claim.UID] = allocated
	}
	return nil
}

// Unreserve implements fwk.ReservePlugin.
func (p *Plugin) Unreserve(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, _ string) {
	s, err := read(state)
	if err != nil {
		return
	}
	p.forget(s)
	for _, claim := range s.claims {
		current, err := p.claims.ResourceClaims(claim.Namespace).Get(claim.Name)
		if err != nil || !resourceclaim.IsReservedForPod(pod, p.assumed.Over(current), false) {
			continue
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": claim.UID},
			"status":   map[string]any{"reservedFor": []map[string]any{{"$patch": "delete", "uid": pod.UID}}},
		})
		if err != nil {
			continue
		}
		updated, err := p.handle.ClientSet().ResourceV1().ResourceClaims(claim.Namespace).
			Patch(ctx, claim.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil {
			// The resource claim controller removes reservations of pods that do not run.
			klog.FromContext(ctx).Error(err, "Remove reservation", "resourceclaim", klog.KObj(claim), "pod", klog.KObj(pod))
			continue
		}
		p.assumed.Set(updated)
	}
}

func (p *Plugin) forget(s *cycleState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, claim := range s.missing {
		delete(p.pending, claim.UID)
	}
}

// PreBindPreFlight implements fwk.PreBindPlugin.
func (p *Plugin) PreBindPreFlight(_ context.Context, state fwk.CycleState, _ *corev1.Pod, _ string) (*fwk.PreBindPreFlightResult, *fwk.Status) {
	if s, err := read(state); err != nil || len(s.claims) == 0 {
		return nil, fwk.NewStatus(fwk.Skip) // a pod without claims has no state
	}
	return &fwk.PreBindPreFlightResult{AllowParallel: true}, nil
}

// PreBind implements fwk.PreBindPlugin.
func (p *Plugin) PreBind(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node string) *fwk.Status {
	s, err := read(state)
	if err != nil {
		return fwk.AsStatus(err)
	}
	for _, claim := range s.claims {
		if resourceclaim.IsReservedForPod(pod, claim, false) {
			continue
		}
		var allocation *resourceapi.AllocationResult
		if i := slices.Index(s.missing, claim); i >= 0 {
			allocation = &s.allocations[node][i]
		}
		if err := p.write(ctx, pod, claim, allocation); err != nil {
			return fwk.AsStatus(fmt.Errorf("reserve claim %s: %w", claim.Name, err))
		}
	}
	p.forget(s) // the overlay has them now
	return nil
}

// write stores the allocation, if there is one, and reserves the claim for the pod. A claim that is allocated gets a finalizer
// first, so that it does not vanish with its devices in use.
func (p *Plugin) write(ctx context.Context, pod *corev1.Pod, claim *resourceapi.ResourceClaim, allocation *resourceapi.AllocationResult) error {
	client := p.handle.ClientSet().ResourceV1().ResourceClaims(claim.Namespace)
	current, refresh := claim, false
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if refresh {
			latest, err := client.Get(ctx, claim.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			current = latest
		}
		refresh = true
		if current.UID != claim.UID || current.DeletionTimestamp != nil {
			return fmt.Errorf("claim %s was deleted", claim.Name)
		}
		if allocation != nil && current.Status.Allocation != nil {
			return apierrors.NewBadRequest("the claim was allocated by somebody else")
		}
		if allocation == nil && current.Status.Allocation == nil {
			return apierrors.NewBadRequest("the claim was deallocated meanwhile")
		}
		wanted := current.DeepCopy()
		if allocation != nil && !slices.Contains(wanted.Finalizers, resourceapi.Finalizer) {
			wanted.Finalizers = append(wanted.Finalizers, resourceapi.Finalizer)
			updated, err := client.Update(ctx, wanted, metav1.UpdateOptions{})
			if err != nil {
				return err
			}
			wanted = updated.DeepCopy()
		}
		if allocation != nil {
			wanted.Status.Allocation = allocation
		}
		wanted.Status.ReservedFor = append(wanted.Status.ReservedFor, resourceapi.ResourceClaimConsumerReference{
			Resource: "pods", Name: pod.Name, UID: pod.UID,
		})
		updated, err := client.UpdateStatus(ctx, wanted, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		p.assumed.Set(updated)
		return nil
	})
}
