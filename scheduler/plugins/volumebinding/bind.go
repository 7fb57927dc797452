package volumebinding

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	fwk "k8s.io/kube-scheduler/framework"
)

// Reserve implements fwk.ReservePlugin.
func (p *Plugin) Reserve(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node string) *fwk.Status {
	s, err := read(state)
	if err != nil {
		return nil // a pod without claims
	}
	pl := s.plans.get(node)
	for i, b := range pl.static {
		bound, _, err := volume.GetBindVolumeToClaim(b.volume, b.claim)
		if err != nil {
			return fwk.AsStatus(fmt.Errorf("bind volume %s: %w", b.volume.Name, err))
		}
		pl.static[i].volume = bound
		p.assumedVolumes.Set(bound)
	}
	for _, claim := range pl.provisioned {
		p.assumedClaims.Set(claim)
	}
	return nil
}

// Unreserve implements fwk.ReservePlugin.
func (p *Plugin) Unreserve(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node string) {
	s, err := read(state)
	if err != nil {
		return
	}
	pl := s.plans.get(node)
	for _, b := range pl.static {
		p.assumedVolumes.Drop(b.volume)
	}
	for _, claim := range pl.provisioned {
		p.assumedClaims.Drop(claim)
	}
}

// PreBindPreFlight implements fwk.PreBindPlugin.
func (p *Plugin) PreBindPreFlight(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node string) (*fwk.PreBindPreFlightResult, *fwk.Status) {
	s, err := read(state)
	if err != nil {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	if pl := s.plans.get(node); len(pl.static)+len(pl.provisioned) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	return &fwk.PreBindPreFlightResult{AllowParallel: true}, nil
}

// PreBind implements fwk.PreBindPlugin.
func (p *Plugin) PreBind(ctx context.Context, state fwk.CycleState, _ *corev1.Pod, node string) *fwk.Status {
	s, err := read(state)
	if err != nil {
		return fwk.AsStatus(err)
	}
	pl := s.plans.get(node)
	if err := p.write(ctx, pl); err != nil {
		return fwk.AsStatus(err)
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	for {
		changed := p.changed.Next()
		done, err := p.allBound(pl, node)
		if err != nil {
			return fwk.AsStatus(err)
		}
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fwk.AsStatus(fmt.Errorf("binding volumes: %w", context.Cause(ctx)))
		}
	}
}

// write puts the plan into the API.
func (p *Plugin) write(ctx context.Context, pl plan) error {
	client := p.handle.ClientSet().CoreV1()
	for _, b := range pl.static {
		updated, err := client.PersistentVolumes().Update(ctx, b.volume, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("bind volume %s: %w", b.volume.Name, err)
		}
		p.assumedVolumes.Set(updated)
	}
	for i, claim := range pl.provisioned {
		if _, asked := pl.original[i].Annotations[volume.AnnSelectedNode]; asked {
			continue
		}
		updated, err := client.PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("select node for claim %s: %w", claim.Name, err)
		}
		p.assumedClaims.Set(updated)
	}
	return nil
}

var errGivenUp = errors.New("the provisioner gave up on the selected node")

// allBound says whether every claim is bound, or why that will not happen.
func (p *Plugin) allBound(pl plan, node string) (bool, error) {
	var claims []*corev1.PersistentVolumeClaim
	for _, b := range pl.static {
		if _, err := p.volumes.Get(b.volume.Name); apierrors.IsNotFound(err) {
			return false, fmt.Errorf("volume %s was deleted", b.volume.Name)
		}
		claims = append(claims, b.claim)
	}
	for _, planned := range append(claims, pl.provisioned...) {
		claim, err := p.claim(planned.Namespace, planned.Name)
		if err != nil {
			return false, fmt.Errorf("read claim: %w", err)
		}
		if fullyBound(claim) {
			continue
		}
		if _, wanted := planned.Annotations[volume.AnnSelectedNode]; wanted && claim.Annotations[volume.AnnSelectedNode] != node {
			return false, fmt.Errorf("claim %s: %w", claim.Name, errGivenUp)
		}
		return false, nil
	}
	return true, nil
}
