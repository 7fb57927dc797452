// Package disruption computes for each PodDisruptionBudget how many of its pods may be evicted now.
package disruption

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apps/poddisruptionbudget"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/controllers/scale"
	"keelson.dev/internal/lister"
	"keelson.dev/internal/podstate"
)

// evictionGrace is how long an evicted pod counts as disrupted without having been deleted: the eviction may have failed half-way.
const evictionGrace = 2 * time.Minute

// Reconciler keeps the status of budgets.
type Reconciler struct {
	Client      client.Client
	Budgets     lister.Of[*policyv1.PodDisruptionBudget]
	Pods        lister.Of[*corev1.Pod]
	Sets        lister.Of[*appsv1.ReplicaSet]
	Deployments lister.Of[*appsv1.Deployment]
	Recorder    record.EventRecorder
	Clock       clock.PassiveClock
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	budgets, err := env.Lister(e, &policyv1.PodDisruptionBudget{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	sets, err := env.Lister(e, &appsv1.ReplicaSet{})
	if err != nil {
		return err
	}
	deployments, err := env.Lister(e, &appsv1.Deployment{})
	if err != nil {
		return err
	}
	r := &Reconciler{
		Client: e.Client, Budgets: budgets, Pods: pods, Sets: sets, Deployments: deployments,
		Recorder: e.Recorder("controllermanager"), Clock: e.Clock,
	}
	marked := func(pod *corev1.Pod) []types.NamespacedName {
		if _, ok := stale(pod); !ok {
			return nil
		}
		return []types.NamespacedName{client.ObjectKeyFromObject(pod)}
	}
	if err := e.Controller("disruption-stale", workers, r.clearStale, env.Mapped(&corev1.Pod{}, marked)); err != nil {
		return err
	}
	return e.Controller("disruption", workers, r.Reconcile, env.For(&policyv1.PodDisruptionBudget{}),
		env.Mapped(&corev1.Pod{}, func(pod *corev1.Pod) []types.NamespacedName {
			var keys []types.NamespacedName
			for _, budget := range budgets.In(pod.Namespace) {
				if selects(budget, pod) {
					keys = append(keys, client.ObjectKeyFromObject(budget))
				}
			}
			return keys
		}))
}

func selects(budget *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	return err == nil && selector.Matches(labels.Set(pod.Labels))
}

// Reconcile brings the status of one budget up to date. If that fails, no disruption is allowed.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	budget, ok := r.Budgets.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	pods := podstate.Select(r.Pods.In(budget.Namespace), func(pod *corev1.Pod) bool { return selects(budget, pod) })
	if len(pods) == 0 {
		r.Recorder.Event(budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected, desired, unmanaged, err := r.expect(ctx, budget, pods)
	if err != nil {
		r.Recorder.Eventf(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return ctrl.Result{}, r.failSafe(ctx, budget, err)
	}
	if len(unmanaged) > 0 {
		r.Recorder.Eventf(budget, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", budget.Spec.Selector)
	}
	now := r.Clock.Now()
	disrupted, again := stillDisrupted(budget, pods, now)
	status := statusOf(budget, pods, disrupted, expected, desired)
	return ctrl.Result{RequeueAfter: again}, r.write(ctx, budget, status)
}

func (r *Reconciler) write(ctx context.Context, budget *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error {
	changed := budget.DeepCopy()
	changed.Status = status
	poddisruptionbudget.UpdateDisruptionAllowedCondition(changed)
	if equality.Semantic.DeepEqual(changed.Status, budget.Status) {
		return nil
	}
	return client.IgnoreNotFound(r.Client.Status().Update(ctx, changed))
}

func (r *Reconciler) failSafe(ctx context.Context, budget *policyv1.PodDisruptionBudget, cause error) error {
	changed := budget.DeepCopy()
	changed.Status.DisruptionsAllowed = 0
	apimeta.SetStatusCondition(&changed.Status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: cause.Error(), ObservedGeneration: budget.Status.ObservedGeneration,
	})
	if err := r.Client.Status().Update(ctx, changed); err != nil {
		return client.IgnoreNotFound(err)
	}
	return cause
}

// stillDisrupted returns the evictions that are under way, and when the first of them is given up.
func stillDisrupted(budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod, now time.Time) (map[string]metav1.Time, time.Duration) {
	var again time.Duration
	left := map[string]metav1.Time{}
	for _, pod := range pods {
		at, evicted := budget.Status.DisruptedPods[pod.Name]
		if !evicted || pod.DeletionTimestamp != nil {
			continue
		}
		wait := at.Add(evictionGrace).Sub(now)
		if wait <= 0 {
			continue
		}
		left[pod.Name] = at
		if again == 0 || wait < again {
			again = wait
		}
	}
	return left, again
}

func statusOf(budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod, disrupted map[string]metav1.Time, expected, desired int32) policyv1.PodDisruptionBudgetStatus {
	status := policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: budget.Generation, ExpectedPods: expected, DesiredHealthy: desired,
		Conditions: append([]metav1.Condition(nil), budget.Status.Conditions...),
	}
	if len(disrupted) > 0 {
		status.DisruptedPods = disrupted
	}
	for _, pod := range pods {
		if _, evicted := disrupted[pod.Name]; pod.DeletionTimestamp == nil && !evicted && podstate.Ready(pod) {
			status.CurrentHealthy++
		}
	}
	if expected > 0 {
		status.DisruptionsAllowed = max(0, status.CurrentHealthy-desired)
	}
	return status
}

// expect returns how many pods there should be and how many must stay healthy.
func (r *Reconciler) expect(ctx context.Context, budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (expected, desired int32, unmanaged []string, err error) {
	switch least := budget.Spec.MinAvailable; {
	case budget.Spec.MaxUnavailable != nil:
		if expected, unmanaged, err = r.scale(ctx, pods); err != nil {
			return 0, 0, nil, err
		}
		most, err := intstr.GetScaledValueFromIntOrPercent(budget.Spec.MaxUnavailable, int(expected), true)
		if err != nil {
			return 0, 0, nil, err
		}
		return expected, max(0, expected-int32(most)), unmanaged, nil
	case least != nil && least.Type == intstr.Int:
		return int32(len(pods)), least.IntVal, nil, nil
	case least != nil:
		if expected, unmanaged, err = r.scale(ctx, pods); err != nil {
			return 0, 0, nil, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(least, int(expected), true)
		return expected, int32(n), unmanaged, err
	}
	return 0, 0, nil, nil
}

// scale sums up the sizes of the controllers of the pods.
func (r *Reconciler) scale(ctx context.Context, pods []*corev1.Pod) (int32, []string, error) {
	sizes := map[types.UID]int32{}
	var unmanaged []string
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			unmanaged = append(unmanaged, pod.Name)
			continue
		}
		if set, ok := r.Sets.Find(pod.Namespace, ref.Name); ok && set.UID == ref.UID {
			if d := r.deploymentOf(set); d != nil {
				sizes[d.UID] = ptr.Deref(d.Spec.Replicas, 1)
			} else {
				sizes[set.UID] = ptr.Deref(set.Spec.Replicas, 1)
			}
			continue
		}
		if _, known := sizes[ref.UID]; known {
			continue
		}
		size, err := r.scaleOf(ctx, pod.Namespace, ref)
		if err != nil {
			return 0, nil, err
		}
		sizes[ref.UID] = size
	}
	var total int32
	for _, size := range sizes {
		total += size
	}
	return total, unmanaged, nil
}

func (r *Reconciler) deploymentOf(set *appsv1.ReplicaSet) *appsv1.Deployment {
	ref := metav1.GetControllerOfNoCopy(set)
	if ref == nil {
		return nil
	}
	if d, ok := r.Deployments.Find(set.Namespace, ref.Name); ok && d.UID == ref.UID {
		return d
	}
	return nil
}

// scaleOf asks any other kind of controller by its scale subresource.
func (r *Reconciler) scaleOf(ctx context.Context, namespace string, ref *metav1.OwnerReference) (int32, error) {
	found, err := scale.Get(ctx, r.Client, scale.Target{
		TypeMeta: metav1.TypeMeta{APIVersion: ref.APIVersion, Kind: ref.Kind}, Namespace: namespace, Name: ref.Name,
	})
	if err != nil {
		if apierrors.IsNotFound(err) {
			return 0, nil
		}
		return 0, fmt.Errorf("%s.%s does not implement the scale subresource: %w", ref.Kind, ref.APIVersion, err)
	}
	return found.Spec.Replicas, nil
}
