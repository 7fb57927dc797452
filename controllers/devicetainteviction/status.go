package devicetainteviction

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/podstate"
)

// statusPeriod is how often the status of a rule is written while its pods go: as often as upstream does.
const statusPeriod = 10 * time.Second

// addStatus wires the controller that tells in a rule's condition EvictionInProgress (KEP-5055) what the rule does, or would do.
func (r *reconciler) addStatus(e *env.Env) error {
	return e.Controller("device-taint-rule-status", 1, r.reportRule, env.For(&resourcev1.DeviceTaintRule{}),
		env.Mapped(&resourcev1.ResourceClaim{}, func(*resourcev1.ResourceClaim) []types.NamespacedName {
			var keys []types.NamespacedName
			for _, rule := range r.rules.All() {
				if rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute {
					keys = append(keys, client.ObjectKeyFromObject(rule))
				}
			}
			return keys
		}))
}

func (r *reconciler) reportRule(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	rule, ok := r.rules.Find("", req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	before := apimeta.FindStatusCondition(rule.Status.Conditions, resourcev1.DeviceTaintConditionEvictionInProgress)
	now := r.clock.Now()
	if before != nil && before.ObservedGeneration == rule.Generation {
		if wait := before.LastTransitionTime.Add(statusPeriod).Sub(now); wait > 0 {
			return ctrl.Result{RequeueAfter: wait}, nil
		}
		if rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNone {
			return ctrl.Result{}, nil // what it would do is said once
		}
	}
	f := r.factsOf(rule)
	next := f.condition(rule)
	result := ctrl.Result{}
	if next.Status == metav1.ConditionTrue {
		result.RequeueAfter = statusPeriod
	}
	if before != nil {
		next.LastTransitionTime = before.LastTransitionTime
		if *before == next {
			return result, nil
		}
	}
	changed := rule.DeepCopy()
	apimeta.RemoveStatusCondition(&changed.Status.Conditions, next.Type)
	next.LastTransitionTime = metav1.NewTime(now) // of any change: the period counts from it
	changed.Status.Conditions = append(changed.Status.Conditions, next)
	return result, client.IgnoreNotFound(r.client.Status().Update(ctx, changed))
}

// facts are what a rule is about.
type facts struct {
	published, allocated, pods, namespaces, evicted int
}

func (r *reconciler) factsOf(rule *resourcev1.DeviceTaintRule) facts {
	r.mu.Lock()
	f := facts{evicted: r.evicted[rule.UID]}
	r.mu.Unlock()
	namespaces := sets.New[string]()
	for _, pod := range r.pods.All() {
		if pod.Spec.NodeName != "" && podstate.Active(pod) && r.leavesBecause(pod, rule) {
			f.pods++
			namespaces.Insert(pod.Namespace)
		}
	}
	f.namespaces = namespaces.Len()
	if rule.Spec.Taint.Effect != resourcev1.DeviceTaintEffectNone {
		return f
	}
	all := r.slices.All()
	for _, slice := range all {
		for i := range slice.Spec.Devices {
			device := &resourcev1.DeviceRequestAllocationResult{Driver: slice.Spec.Driver, Pool: slice.Spec.Pool.Name, Device: slice.Spec.Devices[i].Name}
			if selects(rule.Spec.DeviceSelector, device) && slice.Spec.Pool.Generation == newest(device, all) {
				f.published++
			}
		}
	}
	for _, claim := range r.claims.All() {
		if claim.Status.Allocation == nil {
			continue
		}
		for i := range claim.Status.Allocation.Devices.Results {
			if selects(rule.Spec.DeviceSelector, &claim.Status.Allocation.Devices.Results[i]) {
				f.allocated++
			}
		}
	}
	return f
}

// leavesBecause is whether a rule makes a pod leave, now or later; one without effect is looked at as if it had that effect.
func (r *reconciler) leavesBecause(pod *corev1.Pod, rule *resourcev1.DeviceTaintRule) bool {
	if rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNone {
		rule = rule.DeepCopy()
		rule.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute
	}
	_, leaves := evictAt(r.claimsOf(pod), nil, []*resourcev1.DeviceTaintRule{rule}, r.clock.Now())
	return leaves
}

// condition puts the facts into upstream's words.
func (f facts) condition(rule *resourcev1.DeviceTaintRule) metav1.Condition {
	c := metav1.Condition{Type: resourcev1.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, ObservedGeneration: rule.Generation}
	var said []string
	switch rule.Spec.Taint.Effect {
	case resourcev1.DeviceTaintEffectNoExecute:
		switch {
		case f.pods > 0:
			c.Reason, c.Status = "PodsPendingEviction", metav1.ConditionTrue
			said = append(said, count(f.pods, "pod needs", "pods need")+" to be evicted in "+count(f.namespaces, "namespace", "different namespaces")+".")
		case f.evicted > 0:
			c.Reason = "Completed"
		default:
			c.Reason = "NotStarted"
		}
	case resourcev1.DeviceTaintEffectNone:
		c.Reason = "NoEffect"
		said = append(said, count(f.published, "published device", "published devices")+" selected.", count(f.allocated, "allocated device", "allocated devices")+" selected.",
			count(f.pods, "pod", "pods")+" would be evicted in "+count(f.namespaces, "namespace", "different namespaces")+" if the effect was NoExecute.",
			"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.")
	case resourcev1.DeviceTaintEffectNoSchedule:
		fallthrough
	default:
		c.Reason = "OtherEffect"
		said = append(said, "Eviction only happens for the NoExecute effect.")
	}
	if f.evicted > 0 {
		said = append(said, count(f.evicted, "pod", "pods")+" evicted since starting the controller.")
	}
	c.Message = strings.Join(said, " ")
	return c
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
