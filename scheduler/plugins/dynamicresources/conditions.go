package dynamicresources

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	fwk "k8s.io/kube-scheduler/framework"
)

// A device may state conditions that its driver must report before a pod may be bound to the node where the device is, such as that it
// is attached (KEP-5007).

var errBindingTimeout = errors.New("device binding timeout")

// conditional says whether the claim's devices have binding conditions.
func conditional(claim *resourceapi.ResourceClaim) bool {
	return claim.Status.Allocation != nil && slices.ContainsFunc(claim.Status.Allocation.Devices.Results,
		func(r resourceapi.DeviceRequestAllocationResult) bool { return len(r.BindingConditions) > 0 })
}

// ready says whether all devices of an allocated claim may be bound. An error says that one of them never will, by a failure that its
// driver has reported or by time.
func (p *Plugin) ready(claim *resourceapi.ResourceClaim, now time.Time) (bool, error) {
	if !conditional(claim) {
		return true, nil
	}
	met := true
	for _, r := range claim.Status.Allocation.Devices.Results {
		if len(r.BindingConditions) == 0 {
			continue
		}
		i := slices.IndexFunc(claim.Status.Devices, func(d resourceapi.AllocatedDeviceStatus) bool {
			return d.Driver == r.Driver && d.Pool == r.Pool && d.Device == r.Device
		})
		if i < 0 {
			met = false
			continue
		}
		conditions := claim.Status.Devices[i].Conditions
		for _, name := range r.BindingFailureConditions {
			if c := meta.FindStatusCondition(conditions, name); c != nil && meta.IsStatusConditionTrue(conditions, name) {
				return false, fmt.Errorf("device binding failed: claim=%s, reason=%s, message=%q", claim.Name, c.Reason, c.Message)
			}
		}
		for _, name := range r.BindingConditions {
			met = met && meta.IsStatusConditionTrue(conditions, name)
		}
	}
	if began := claim.Status.Allocation.AllocationTimestamp; !met && began != nil && !now.Before(began.Add(p.bindingTimeout)) {
		return false, fmt.Errorf("%w: claim=%s", errBindingTimeout, claim.Name)
	}
	return met, nil
}

// awaitConditions waits until the devices of the claims may be bound.
func (p *Plugin) awaitConditions(ctx context.Context, pod *corev1.Pod, node string, claims []*resourceapi.ResourceClaim) *fwk.Status {
	claims = slices.DeleteFunc(slices.Clone(claims), func(c *resourceapi.ResourceClaim) bool { return !conditional(c) })
	if len(claims) == 0 {
		return nil
	}
	p.handle.EventRecorder().Eventf(pod, nil, corev1.EventTypeNormal, "BindingConditionsPending", "Scheduling", "waiting for binding conditions for device on node %s", node)
	ctx, cancel := context.WithTimeout(ctx, p.bindingTimeout)
	defer cancel()
	for _, claim := range claims {
		err := p.await(ctx, func() (bool, error) {
			current, err := p.dra.ResourceClaims().Get(claim.Namespace, claim.Name)
			if err != nil {
				return false, err
			}
			return p.ready(current, time.Now())
		})
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: claim=%s", errBindingTimeout, claim.Name)
		}
		if err != nil {
			return fwk.AsStatus(err)
		}
	}
	return nil
}

// await looks again after each change of a claim.
func (p *Plugin) await(ctx context.Context, done func() (bool, error)) error {
	for {
		changed := p.changed.Next()
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
