// Package devicetainteviction removes pods that use a device with a NoExecute taint which their claim does not tolerate, or no longer.
// A taint comes from the device's driver, in its ResourceSlice, or from an administrator, in a DeviceTaintRule.
package devicetainteviction

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	draclaim "k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
	"keelson.dev/internal/podstate"
)

type reconciler struct {
	client   client.Client
	pods     lister.Of[*corev1.Pod]
	claims   lister.Of[*resourcev1.ResourceClaim]
	slices   lister.Of[*resourcev1.ResourceSlice]
	rules    lister.Of[*resourcev1.DeviceTaintRule]
	recorder record.EventRecorder
	clock    clock.PassiveClock

	mu      sync.Mutex
	evicted map[types.UID]int // pods since the start, by the rule that took them
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	claims, err := env.Lister(e, &resourcev1.ResourceClaim{})
	if err != nil {
		return err
	}
	resourceSlices, err := env.Lister(e, &resourcev1.ResourceSlice{})
	if err != nil {
		return err
	}
	rules, err := env.Lister(e, &resourcev1.DeviceTaintRule{})
	if err != nil {
		return err
	}
	r := &reconciler{
		client: e.Client, pods: pods, claims: claims, slices: resourceSlices, rules: rules,
		recorder: e.Recorder("device-taint-eviction"), clock: e.Clock, evicted: map[types.UID]int{},
	}
	if err := r.addStatus(e); err != nil {
		return err
	}
	usersOf := func(claim *resourcev1.ResourceClaim) []types.NamespacedName {
		var keys []types.NamespacedName
		for _, user := range claim.Status.ReservedFor {
			if user.APIGroup == "" && user.Resource == "pods" {
				keys = append(keys, types.NamespacedName{Namespace: claim.Namespace, Name: user.Name})
			}
		}
		return keys
	}
	everyUser := func(q env.Queue) {
		for _, claim := range claims.All() {
			if claim.Status.Allocation != nil {
				env.Add(q, usersOf(claim)...)
			}
		}
	}
	return e.Controller("device-taint-eviction", workers, r.reconcile,
		env.Mapped(&corev1.Pod{}, func(pod *corev1.Pod) []types.NamespacedName {
			if pod.Spec.NodeName == "" || len(pod.Spec.ResourceClaims) == 0 && pod.Status.ExtendedResourceClaimStatus == nil {
				return nil
			}
			return []types.NamespacedName{client.ObjectKeyFromObject(pod)}
		}),
		env.Mapped(&resourcev1.ResourceClaim{}, usersOf),
		env.On(&resourcev1.ResourceSlice{}, env.Changes[*resourcev1.ResourceSlice]{
			Created: func(slice *resourcev1.ResourceSlice, q env.Queue) {
				if tainted(slice) {
					everyUser(q)
				}
			},
			Updated: func(before, after *resourcev1.ResourceSlice, q env.Queue) {
				if (tainted(before) || tainted(after)) && !equality.Semantic.DeepEqual(before.Spec, after.Spec) {
					everyUser(q)
				}
			},
		}),
		env.On(&resourcev1.DeviceTaintRule{}, env.Changes[*resourcev1.DeviceTaintRule]{
			Created: func(_ *resourcev1.DeviceTaintRule, q env.Queue) { everyUser(q) },
			Updated: func(before, after *resourcev1.DeviceTaintRule, q env.Queue) {
				if !equality.Semantic.DeepEqual(before.Spec, after.Spec) {
					everyUser(q)
				}
			},
		}))
}

// reconcile evicts one pod if its time has come.
func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	pod, ok := r.pods.Find(req.Namespace, req.Name)
	if !ok || pod.Spec.NodeName == "" || !podstate.Active(pod) {
		return ctrl.Result{}, nil
	}
	now := r.clock.Now()
	at, evict := evictAt(r.claimsOf(pod), r.slices.All(), r.rules.All(), now)
	if !evict {
		return ctrl.Result{}, nil
	}
	if wait := at.Sub(now); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	return ctrl.Result{}, r.evict(ctx, pod, metav1.NewTime(now))
}

// claimsOf returns the allocated claims that are reserved for a pod.
func (r *reconciler) claimsOf(pod *corev1.Pod) []*resourcev1.ResourceClaim {
	var claims []*resourcev1.ResourceClaim
	for name, mustCheckOwner := range draclaim.PodClaims(pod) {
		claim, ok := r.claims.Find(pod.Namespace, name)
		if !ok || claim.Status.Allocation == nil || !draclaim.IsReservedForPod(pod, claim, false) {
			continue
		}
		if mustCheckOwner && draclaim.IsForPod(pod, claim, false) != nil {
			continue
		}
		claims = append(claims, claim)
	}
	return claims
}

func (r *reconciler) evict(ctx context.Context, pod *corev1.Pod, now metav1.Time) error {
	r.recorder.Event(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion")
	changed := pod.DeepCopy()
	if podstate.SetCondition(&changed.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation,
		Reason: "DeletionByDeviceTaintManager", Message: "Device Taint manager: deleting due to NoExecute taint",
	}, now) {
		if err := r.client.Status().Patch(ctx, changed, client.StrategicMergeFrom(pod)); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	err := r.client.Delete(ctx, changed, client.Preconditions{UID: new(pod.UID)})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("evict: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rule := range r.rules.All() {
		if err == nil && rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute && r.leavesBecause(pod, rule) {
			r.evicted[rule.UID]++
		}
	}
	return nil
}
