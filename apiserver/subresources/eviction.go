package subresources

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"keelson.dev/apiserver/registry"
	"keelson.dev/internal/podstate"
)

// maxDisrupted is how many evicted pods a budget may wait for: more mean that the disruption controller does not work, and the
// map would grow without end.
const maxDisrupted = 2000

// evictionBackoff is for two evictions that meet at one budget.
var evictionBackoff = retry.DefaultRetry

// oldPolicy is a version of Eviction with the same fields.
var oldPolicy = schema.GroupVersion{Group: policyv1.GroupName, Version: "v1beta1"}

// eviction deletes a pod if its disruption budget allows that.
type eviction struct{ pods, budgets *registry.Kind }

var (
	_ rest.NamedCreater             = &eviction{}
	_ rest.GroupVersionKindProvider = &eviction{}
	_ rest.GroupVersionAcceptor     = &eviction{}
)

// New implements rest.Storage.
func (e *eviction) New() runtime.Object { return &policyv1.Eviction{} }

// Destroy implements rest.Storage; the stores belong to their kinds.
func (e *eviction) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (e *eviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

// AcceptsGroupVersion implements rest.GroupVersionAcceptor: old clients still send the version that is not served any more.
func (e *eviction) AcceptsGroupVersion(gv schema.GroupVersion) bool {
	return gv == policyv1.SchemeGroupVersion || gv == oldPolicy
}

// Create evicts the pod of that name.
func (e *eviction) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	request, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", obj))
	}
	if name != request.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	deleteOptions, err := evictionOptions(request, options)
	if err != nil {
		return nil, err
	}
	pod, err := e.pod(ctx, name)
	if err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, request.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	// A conflict means that the pod or its budget has changed since the decision: decide again.
	err = retry.OnError(evictionBackoff, apierrors.IsConflict, func() error {
		if pod, err = e.pod(ctx, name); err != nil {
			return err
		}
		return e.evict(ctx, pod, deleteOptions)
	})
	if apierrors.IsConflict(err) && deleteOptions.Preconditions == nil {
		err = createTooManyRequests(pod.Name, err)
	}
	if err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// evictionOptions takes dry run from the request or from its body; where both name it they must agree.
func evictionOptions(request *policyv1.Eviction, options *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	if request.DeleteOptions == nil {
		return &metav1.DeleteOptions{DryRun: options.DryRun}, nil
	}
	result := request.DeleteOptions.DeepCopy()
	switch {
	case len(result.DryRun) == 0:
		result.DryRun = options.DryRun
	case len(options.DryRun) > 0 && !slices.Equal(options.DryRun, result.DryRun):
		return nil, fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", options.DryRun, result.DryRun) //nolint:staticcheck // the API's wording
	}
	return result, nil
}

func createTooManyRequests(name string, cause error) error {
	return apierrors.NewTooManyRequests(fmt.Sprintf("pod %s could not be evicted: %v", name, cause), 1)
}

func (e *eviction) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	obj, err := e.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// evict decides once, and deletes the pod.
func (e *eviction) evict(ctx context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) error {
	options = options.DeepCopy()
	if outsideBudgets(pod) {
		return e.delete(ctx, pod, options)
	}
	budget, err := e.budgetOf(ctx, pod)
	if err != nil {
		return err
	}
	if budget == nil {
		return e.delete(ctx, pod, options)
	}
	if mayGoUnhealthy(pod, budget) {
		// The pod must still be as it was: were it ready by now, the budget would have to pay.
		pinVersion(options, pod)
		return e.delete(ctx, pod, options)
	}
	if err := pay(budget, pod.Name, time.Now()); err != nil {
		return err
	}
	if !dryrun.IsDryRun(options.DryRun) {
		status := e.budgets.Status()
		budgetCtx := withResource(ctx, policyv1.SchemeGroupVersion.WithResource("poddisruptionbudgets"), "status")
		_, _, err := status.Update(budgetCtx, budget.Name, rest.DefaultUpdatedObjectInfo(budget), rest.ValidateAllObjectFunc,
			rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		if err != nil {
			return err
		}
	}
	return e.delete(ctx, pod, options)
}

// outsideBudgets tells whether a pod's end disrupts nobody: it has not started, or it has ended or is ending anyway.
func outsideBudgets(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return true
	default:
		return pod.DeletionTimestamp != nil
	}
}

// mayGoUnhealthy tells whether a pod that is not ready may go without being counted.
func mayGoUnhealthy(pod *corev1.Pod, budget *policyv1.PodDisruptionBudget) bool {
	if podstate.Ready(pod) {
		return false
	}
	if ptr.Deref(budget.Spec.UnhealthyPodEvictionPolicy, policyv1.IfHealthyBudget) == policyv1.AlwaysAllow {
		return true
	}
	return budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy && budget.Status.DesiredHealthy > 0
}

func pinVersion(options *metav1.DeleteOptions, pod *corev1.Pod) {
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	if options.Preconditions.ResourceVersion == nil {
		options.Preconditions.ResourceVersion = &pod.ResourceVersion
	}
}

func (e *eviction) budgetOf(ctx context.Context, pod *corev1.Pod) (*policyv1.PodDisruptionBudget, error) {
	if e.budgets == nil {
		return nil, nil
	}
	list, err := e.budgets.List(withResource(ctx, policyv1.SchemeGroupVersion.WithResource("poddisruptionbudgets"), ""),
		&metainternalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	var matching []*policyv1.PodDisruptionBudget
	items := list.(*policyv1.PodDisruptionBudgetList).Items
	for i := range items {
		selector, err := metav1.LabelSelectorAsSelector(items[i].Spec.Selector)
		if err != nil { // stored before the selector was checked: it selects nothing
			continue
		}
		if selector.Matches(labels.Set(pod.Labels)) {
			matching = append(matching, &items[i])
		}
	}
	switch len(matching) {
	case 0:
		return nil, nil
	case 1:
		return matching[0], nil
	}
	return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
		Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
	}}
}

// pay takes one disruption from the budget, or tells why there is none.
func pay(budget *policyv1.PodDisruptionBudget, pod string, now time.Time) error {
	status := &budget.Status
	switch {
	case status.ObservedGeneration < budget.Generation:
		return budgetError(budget, 10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget.Name))
	case status.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), budget.Name, errors.New("pdb disruptions allowed is negative"))
	case len(status.DisruptedPods) > maxDisrupted:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), budget.Name,
			errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case status.DisruptionsAllowed == 0:
		return budgetError(budget, 0, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently",
			budget.Name, status.DesiredHealthy, status.CurrentHealthy))
	}
	status.DisruptionsAllowed--
	if status.DisruptionsAllowed == 0 {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Reason: policyv1.InsufficientPodsReason, Status: metav1.ConditionFalse,
			ObservedGeneration: status.ObservedGeneration,
		})
	}
	if status.DisruptedPods == nil {
		status.DisruptedPods = map[string]metav1.Time{}
	}
	// The controller takes the entry away when it sees the pod go, or after a while if it never does.
	status.DisruptedPods[pod] = metav1.NewTime(now)
	return nil
}

func budgetError(_ *policyv1.PodDisruptionBudget, retryAfter int, cause string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfter)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: cause})
	return err
}

// delete tells in the pod's status why it ends, then deletes it.
func (e *eviction) delete(ctx context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) error {
	podCtx := withResource(ctx, corev1.SchemeGroupVersion.WithResource("pods"), "")
	if !dryrun.IsDryRun(options.DryRun) {
		noted := pod.DeepCopy()
		setPodCondition(&noted.Status, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
		})
		updated, _, err := e.pods.Status().Update(podCtx, pod.Name, rest.DefaultUpdatedObjectInfo(noted), rest.ValidateAllObjectFunc,
			rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		if p := options.Preconditions; p != nil && p.ResourceVersion != nil && *p.ResourceVersion == pod.ResourceVersion {
			p.ResourceVersion = new(updated.(*corev1.Pod).ResourceVersion)
		}
	}
	_, _, err := e.pods.Delete(podCtx, pod.Name, rest.ValidateAllObjectFunc, options)
	return err
}

// withResource is the context of a request for another resource in the same namespace.
func withResource(ctx context.Context, gvr schema.GroupVersionResource, subresource string) context.Context {
	return genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{
		IsResourceRequest: true, APIGroup: gvr.Group, APIVersion: gvr.Version, Resource: gvr.Resource, Subresource: subresource,
		Namespace: genericapirequest.NamespaceValue(ctx),
	})
}
