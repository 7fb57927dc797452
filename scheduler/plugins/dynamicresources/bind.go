package dynamicresources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

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

// maxWatchDelay bounds the wait until the watch shows a claim that was created.
const maxWatchDelay = 2 * time.Minute

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
		freed.Status = resourceapi.ResourceClaimStatus{}
		freed, err := p.handle.ClientSet().ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, freed, metav1.UpdateOptions{})
		if err == nil {
			err = p.dra.ResourceClaims().AssumeClaimAfterAPICall(freed)
		}
		if err != nil {
			return nil, fwk.AsStatus(fmt.Errorf("deallocate claim %s: %w", claim.Name, err))
		}
		return nil, fwk.NewStatus(fwk.Unschedulable, "deallocation of ResourceClaim completed")
	}
	if s.leftover != nil {
		if err := p.remove(ctx, s.leftover); err != nil {
			return nil, fwk.AsStatus(err)
		}
		return nil, fwk.NewStatus(fwk.Unschedulable, "deletion of ResourceClaim completed")
	}
	return nil, fwk.NewStatus(fwk.Unschedulable)
}

// Reserve implements fwk.ReservePlugin.
func (p *Plugin) Reserve(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node string) *fwk.Status {
	s, err := read(state)
	if err != nil {
		return nil // a pod without claims has no state
	}
	a := s.found[node]
	if a == nil {
		if len(s.missing) > 0 {
			return fwk.AsStatus(fmt.Errorf("no allocation was found for node %s", node))
		}
		return nil
	}
	for i, claim := range a.claims {
		allocated := claim.DeepCopy()
		allocated.Status.Allocation = &a.results[i]
		if err := p.dra.ResourceClaims().SignalClaimPendingAllocation(claim.UID, allocated); err != nil {
			return fwk.AsStatus(err)
		}
	}
	return nil
}

// Unreserve implements fwk.ReservePlugin.
func (p *Plugin) Unreserve(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node string) {
	s, err := read(state)
	if err != nil {
		return
	}
	logger := klog.FromContext(ctx)
	p.forget(s.found[node], false)
	for _, claim := range s.claims {
		current, err := p.dra.ResourceClaims().Get(claim.Namespace, claim.Name)
		if err != nil || !resourceclaim.IsReservedForPod(pod, current, false) {
			continue
		}
		if err := p.dropReservation(ctx, pod, claim); err != nil {
			// The resource claim controller removes reservations of pods that do not run.
			logger.Error(err, "Remove reservation", "resourceclaim", klog.KObj(claim), "pod", klog.KObj(pod))
		}
	}
	if s.made == nil {
		return
	}
	if err := p.remove(ctx, s.made); err != nil { // otherwise the next attempt does it
		logger.Error(err, "Delete claim for extended resources", "resourceclaim", klog.KObj(s.made), "pod", klog.KObj(pod))
	}
}

func (p *Plugin) dropReservation(ctx context.Context, pod *corev1.Pod, claim *resourceapi.ResourceClaim) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": claim.UID},
		"status":   map[string]any{"reservedFor": []map[string]any{{"$patch": "delete", "uid": pod.UID}}},
	})
	if err != nil {
		return err
	}
	updated, err := p.handle.ClientSet().ResourceV1().ResourceClaims(claim.Namespace).
		Patch(ctx, claim.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return err
	}
	return p.dra.ResourceClaims().AssumeClaimAfterAPICall(updated)
}

// forget drops the allocations that were pending; written says that the claims have them now.
func (p *Plugin) forget(a *allocation, written bool) {
	if a == nil {
		return
	}
	for _, claim := range a.claims {
		p.dra.ResourceClaims().MaybeRemoveClaimPendingAllocation(claim.UID, written)
	}
}

// PreBindPreFlight implements fwk.PreBindPlugin.
func (p *Plugin) PreBindPreFlight(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node string) (*fwk.PreBindPreFlightResult, *fwk.Status) {
	s, err := read(state)
	if err != nil || len(s.claims) == 0 && s.found[node] == nil {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	return &fwk.PreBindPreFlightResult{AllowParallel: true}, nil
}

// PreBind implements fwk.PreBindPlugin.
func (p *Plugin) PreBind(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node string) *fwk.Status {
	s, err := read(state)
	if err != nil {
		return fwk.AsStatus(err)
	}
	a := s.found[node]
	var written []*resourceapi.ResourceClaim
	for _, claim := range s.claims {
		if !resourceclaim.IsReservedForPod(pod, claim, false) {
			if claim, err = p.write(ctx, pod, claim, a.resultOf(claim)); err != nil {
				return fwk.AsStatus(fmt.Errorf("reserve claim: %w", err))
			}
		}
		written = append(written, claim)
	}
	if claim := a.extended(); claim != nil {
		if err := p.bindExtended(ctx, s, pod, claim, a); err != nil {
			return fwk.AsStatus(err)
		}
		written = append(written, s.made)
	}
	p.forget(a, true)
	return p.awaitConditions(ctx, pod, node, written)
}

// resultOf returns what was found for a claim, nil for one that has its devices.
func (a *allocation) resultOf(claim *resourceapi.ResourceClaim) *resourceapi.AllocationResult {
	if a == nil {
		return nil
	}
	if i := slices.Index(a.claims, claim); i >= 0 {
		return &a.results[i]
	}
	return nil
}

// bindExtended creates the claim for extended resources and notes it in the pod's status, where the kubelet looks.
func (p *Plugin) bindExtended(ctx context.Context, s *cycleState, pod *corev1.Pod, claim *resourceapi.ResourceClaim, a *allocation) error {
	blank := claim.DeepCopy()
	blank.UID = ""
	created, err := p.handle.ClientSet().ResourceV1().ResourceClaims(claim.Namespace).Create(ctx, blank, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create claim for extended resources: %w", err)
	}
	s.made = created
	if created, err = p.write(ctx, pod, created, a.resultOf(claim)); err != nil {
		return fmt.Errorf("allocate claim for extended resources: %w", err)
	}
	s.made = created
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"extendedResourceClaimStatus": corev1.PodExtendedResourceClaimStatus{
		ResourceClaimName: created.Name, RequestMappings: a.mappings,
	}}})
	if err != nil {
		return err
	}
	if _, err := p.handle.ClientSet().CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("note claim for extended resources in the pod's status: %w", err)
	}
	// What was pending stood under a uid of our own, so it must not go before the claim counts.
	ctx, cancel := context.WithTimeout(ctx, maxWatchDelay)
	defer cancel()
	err = p.await(ctx, func() (bool, error) {
		_, err := p.dra.ResourceClaims().Get(created.Namespace, created.Name)
		return err == nil, nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		klog.FromContext(ctx).Info("The watch does not show a claim that was created", "resourceclaim", klog.KObj(created))
		return nil
	}
	return err
}

// write stores the allocation, if there is one, and reserves the claim for the pod. A claim that is allocated gets a finalizer
// first, so that it does not vanish with its devices in use.
func (p *Plugin) write(ctx context.Context, pod *corev1.Pod, claim *resourceapi.ResourceClaim, result *resourceapi.AllocationResult) (*resourceapi.ResourceClaim, error) {
	client := p.handle.ClientSet().ResourceV1().ResourceClaims(claim.Namespace)
	current, refresh := claim, false
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if refresh {
			latest, err := client.Get(ctx, claim.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			current = latest
		}
		refresh = true
		if current.UID != claim.UID || current.DeletionTimestamp != nil {
			return fmt.Errorf("claim %s got deleted in the meantime", klog.KObj(claim))
		}
		if result != nil && current.Status.Allocation != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("claim %s got allocated elsewhere in the meantime", klog.KObj(claim)))
		}
		if result == nil && current.Status.Allocation == nil {
			return apierrors.NewBadRequest(fmt.Sprintf("claim %s got deallocated elsewhere in the meantime", klog.KObj(claim)))
		}
		wanted := current.DeepCopy()
		if result != nil && !slices.Contains(wanted.Finalizers, resourceapi.Finalizer) {
			wanted.Finalizers = append(wanted.Finalizers, resourceapi.Finalizer)
			updated, err := client.Update(ctx, wanted, metav1.UpdateOptions{})
			if err != nil {
				return err
			}
			wanted = updated.DeepCopy()
		}
		if result != nil {
			wanted.Status.Allocation = result.DeepCopy()
		}
		if wanted.Status.Allocation.AllocationTimestamp == nil {
			wanted.Status.Allocation.AllocationTimestamp = new(metav1.Now())
		}
		wanted.Status.ReservedFor = append(wanted.Status.ReservedFor, resourceapi.ResourceClaimConsumerReference{
			Resource: "pods", Name: pod.Name, UID: pod.UID,
		})
		updated, err := client.UpdateStatus(ctx, wanted, metav1.UpdateOptions{})
		current = updated
		return err
	})
	if err != nil {
		return nil, err
	}
	return current, p.dra.ResourceClaims().AssumeClaimAfterAPICall(current)
}
