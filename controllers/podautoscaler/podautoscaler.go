// Package podautoscaler keeps workloads at the size that their metrics ask for. Every 15 seconds it reads, of each
// HorizontalPodAutoscaler, the target's scale and its metrics, computes the size by which the metrics would meet their targets, and
// writes it to the scale as far as behavior, minimum and maximum allow.
package podautoscaler

import (
	"context"
	"fmt"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/controllers/scale"
	"keelson.dev/internal/lister"
)

// period is how often each autoscaler looks at its metrics; metrics servers measure about as often.
const period = 15 * time.Second

type reconciler struct {
	client      client.Client
	autoscalers lister.Of[*autoscalingv2.HorizontalPodAutoscaler]
	pods        lister.Of[*corev1.Pod]
	metrics     *metricsReader
	recorder    record.EventRecorder
	clock       clock.PassiveClock

	mu        sync.Mutex
	histories map[types.NamespacedName]*history
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	autoscalers, err := env.Lister(e, &autoscalingv2.HorizontalPodAutoscaler{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	metrics, err := newMetricsReader(e)
	if err != nil {
		return err
	}
	r := &reconciler{
		client: e.Client, autoscalers: autoscalers, pods: pods, metrics: metrics, recorder: e.Recorder("horizontal-pod-autoscaler"),
		clock: e.Clock, histories: map[types.NamespacedName]*history{},
	}
	wake := func(h *autoscalingv2.HorizontalPodAutoscaler, q env.Queue) { env.Add(q, client.ObjectKeyFromObject(h)) }
	return e.Controller("horizontal-pod-autoscaler", workers, r.reconcile,
		env.On(&autoscalingv2.HorizontalPodAutoscaler{}, env.Changes[*autoscalingv2.HorizontalPodAutoscaler]{
			Created: wake, Deleted: wake,
			Updated: func(before, after *autoscalingv2.HorizontalPodAutoscaler, q env.Queue) {
				if !equality.Semantic.DeepEqual(before.Spec, after.Spec) { // our own status writes must not speed us up
					wake(after, q)
				}
			},
		}))
}

func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	found, ok := r.autoscalers.Find(req.Namespace, req.Name)
	if !ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.histories, req.NamespacedName)
		return ctrl.Result{}, nil
	}
	h := found.DeepCopy()
	r.rescale(ctx, h, r.historyOf(req.NamespacedName))
	if !equality.Semantic.DeepEqual(h.Status, found.Status) {
		if err := r.client.Status().Update(ctx, h); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	return ctrl.Result{RequeueAfter: period}, nil
}

func (r *reconciler) historyOf(key types.NamespacedName) *history {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.histories[key] == nil {
		r.histories[key] = &history{}
	}
	return r.histories[key]
}

// rescale brings the target to its size and h's status up to date. What hinders it is told in conditions and events: the next look comes
// in any case.
func (r *reconciler) rescale(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, past *history) {
	now := r.clock.Now()
	set := func(kind autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, message string) {
		setCondition(h, kind, status, reason, message, now)
	}
	ref := h.Spec.ScaleTargetRef
	target := scale.Target{TypeMeta: metav1.TypeMeta{APIVersion: ref.APIVersion, Kind: ref.Kind}, Namespace: h.Namespace, Name: ref.Name}
	found, err := scale.Get(ctx, r.client, target)
	if err != nil {
		r.recorder.Event(h, corev1.EventTypeWarning, "FailedGetScale", err.Error())
		set(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale", fmt.Sprintf("the HPA controller was unable to get the target's current scale: %v", err))
		return
	}
	set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	current, least := found.Spec.Replicas, ptr.Deref(h.Spec.MinReplicas, 1)
	h.Status.CurrentReplicas = found.Status.Replicas
	desired, reason := current, ""
	switch {
	case current == 0 && least != 0:
		set(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
	case current > h.Spec.MaxReplicas:
		desired, reason = h.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas"
	case current < least:
		desired, reason = least, "Current number of replicas below Spec.MinReplicas"
	default:
		selector, err := selectorOf(found)
		if err != nil {
			r.recorder.Event(h, corev1.EventTypeWarning, "InvalidSelector", err.Error())
			set(autoscalingv2.ScalingActive, corev1.ConditionFalse, "InvalidSelector", "the HPA target's scale is missing a selector")
			return
		}
		v := &view{h: h, selector: selector, pods: r.podsOf(h.Namespace, selector), current: current, status: found.Status.Replicas, now: now}
		proposed, why, ok := r.propose(ctx, v, set)
		if !ok {
			return
		}
		d := past.decide(behaviorOf(h), current, proposed, least, h.Spec.MaxReplicas, now)
		set(autoscalingv2.AbleToScale, corev1.ConditionTrue, d.able.reason, d.able.message)
		set(autoscalingv2.ScalingLimited, d.limitedStatus(), d.limited.reason, d.limited.message)
		desired, reason = d.replicas, why
		if desired < current {
			reason = "All metrics below target"
		}
	}
	h.Status.DesiredReplicas = desired
	if desired == current {
		return
	}
	found.Spec.Replicas = desired
	if err := scale.Update(ctx, r.client, target, found); err != nil {
		r.recorder.Eventf(h, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", desired, reason, err)
		set(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale", fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err))
		h.Status.DesiredReplicas = current
		return
	}
	set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", desired))
	r.recorder.Eventf(h, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", desired, reason)
	past.scaled(desired-current, now)
	h.Status.LastScaleTime = new(metav1.NewTime(now))
}

func selectorOf(s *autoscalingv1.Scale) (labels.Selector, error) {
	if s.Status.Selector == "" {
		return nil, fmt.Errorf("selector is required")
	}
	selector, err := labels.Parse(s.Status.Selector)
	if err != nil {
		return nil, fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %w", err)
	}
	return selector, nil
}

func (r *reconciler) podsOf(namespace string, selector labels.Selector) []*corev1.Pod {
	var out []*corev1.Pod
	for _, pod := range r.pods.In(namespace) {
		if selector.Matches(labels.Set(pod.Labels)) {
			out = append(out, pod)
		}
	}
	return out
}

// propose returns the largest size that any metric asks for, and which one that is. A metric that cannot be read does not stop
// scaling up by the others, but scaling down.
func (r *reconciler) propose(ctx context.Context, v *view, set func(autoscalingv2.HorizontalPodAutoscalerConditionType, corev1.ConditionStatus, string, string)) (int32, string, bool) {
	var (
		best     int32
		name     string
		statuses []autoscalingv2.MetricStatus
		failed   *metricError
		valid    int
	)
	for i := range v.h.Spec.Metrics {
		p, err := r.metrics.propose(ctx, v, &v.h.Spec.Metrics[i])
		if err != nil {
			if failed == nil {
				failed = err
			}
			r.recorder.Event(v.h, corev1.EventTypeWarning, err.reason, err.Error())
			continue
		}
		valid++
		statuses = append(statuses, p.status)
		if p.replicas > best || valid == 1 {
			best, name = p.replicas, p.name
		}
	}
	if failed != nil && (valid == 0 || best < v.current) {
		set(autoscalingv2.ScalingActive, corev1.ConditionFalse, failed.reason, fmt.Sprintf("the HPA was unable to compute the replica count: %v", failed))
		if valid == 0 {
			r.recorder.Eventf(v.h, corev1.EventTypeWarning, "FailedComputeMetricsReplicas", "invalid metrics (%d invalid out of %d), first error is: %v", len(v.h.Spec.Metrics)-valid, len(v.h.Spec.Metrics), failed)
		}
		v.h.Status.CurrentMetrics = statuses
		v.h.Status.DesiredReplicas = v.current
		return 0, "", false
	}
	v.h.Status.CurrentMetrics = statuses
	set(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from "+name)
	return best, name + " above target", true
}

func setCondition(h *autoscalingv2.HorizontalPodAutoscaler, kind autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) {
	next := autoscalingv2.HorizontalPodAutoscalerCondition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now)}
	for i := range h.Status.Conditions {
		old := &h.Status.Conditions[i]
		if old.Type != kind {
			continue
		}
		if old.Status == status {
			next.LastTransitionTime = old.LastTransitionTime
		}
		*old = next
		return
	}
	h.Status.Conditions = append(h.Status.Conditions, next)
}
