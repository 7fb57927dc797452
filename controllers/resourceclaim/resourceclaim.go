// Package resourceclaim makes the ResourceClaims that pods ask for by template, and takes back what nobody uses any more: the
// reservation of a pod that has stopped, the allocation after the last of them, and the claim with its pod.
package resourceclaim

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	draclaim "k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

type reconciler struct {
	client    client.Client
	pods      lister.Of[*corev1.Pod]
	claims    lister.Of[*resourcev1.ResourceClaim]
	templates lister.Of[*resourcev1.ResourceClaimTemplate]
	recorder  record.EventRecorder
}

// Add wires the controllers of pods and of claims.
func Add(e *env.Env, workers int) error {
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	claims, err := env.Lister(e, &resourcev1.ResourceClaim{})
	if err != nil {
		return err
	}
	templates, err := env.Lister(e, &resourcev1.ResourceClaimTemplate{})
	if err != nil {
		return err
	}
	r := &reconciler{client: e.Client, pods: pods, claims: claims, templates: templates, recorder: e.Recorder("resource_claim")}
	err = e.Controller("resourceclaim-pods", workers, r.syncPod,
		env.Mapped(&corev1.Pod{}, func(pod *corev1.Pod) []types.NamespacedName {
			if len(pod.Spec.ResourceClaims) == 0 {
				return nil
			}
			return []types.NamespacedName{client.ObjectKeyFromObject(pod)}
		}),
		env.On(&resourcev1.ResourceClaim{}, env.Changes[*resourcev1.ResourceClaim]{
			Updated: func(_, after *resourcev1.ResourceClaim, q env.Queue) { wakePods(pods, after, q) },
			Deleted: func(claim *resourcev1.ResourceClaim, q env.Queue) { wakePods(pods, claim, q) },
		}),
		env.On(&resourcev1.ResourceClaimTemplate{}, env.Changes[*resourcev1.ResourceClaimTemplate]{
			Created: func(template *resourcev1.ResourceClaimTemplate, q env.Queue) {
				for _, pod := range pods.In(template.Namespace) {
					if slices.ContainsFunc(pod.Spec.ResourceClaims, func(c corev1.PodResourceClaim) bool {
						return ptr.Deref(c.ResourceClaimTemplateName, "") == template.Name
					}) {
						env.Add(q, client.ObjectKeyFromObject(pod))
					}
				}
			},
		}))
	if err != nil {
		return err
	}
	claimsOf := func(pod *corev1.Pod) []types.NamespacedName {
		var keys []types.NamespacedName
		for name := range draclaim.PodClaims(pod) {
			keys = append(keys, types.NamespacedName{Namespace: pod.Namespace, Name: name})
		}
		return keys
	}
	return e.Controller("resourceclaim", workers, r.syncClaim, env.For(&resourcev1.ResourceClaim{}), env.Mapped(&corev1.Pod{}, claimsOf))
}

// wakePods wakes the pods that use a claim.
func wakePods(pods lister.Of[*corev1.Pod], claim *resourcev1.ResourceClaim, q env.Queue) {
	for _, pod := range pods.In(claim.Namespace) {
		if len(pod.Spec.ResourceClaims) == 0 {
			continue
		}
		if metav1.IsControlledBy(claim, pod) {
			env.Add(q, client.ObjectKeyFromObject(pod))
			continue
		}
		for name := range draclaim.PodClaims(pod) {
			if name == claim.Name {
				env.Add(q, client.ObjectKeyFromObject(pod))
			}
		}
	}
}

// syncPod makes the claims that a pod's templates ask for, and reserves claims for a pod that came to its node without a scheduler.
func (r *reconciler) syncPod(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	pod, ok := r.pods.Find(req.Namespace, req.Name)
	if !ok || pod.DeletionTimestamp != nil || done(pod) {
		return ctrl.Result{}, nil
	}
	made := map[string]string{}
	for i := range pod.Spec.ResourceClaims {
		ask := &pod.Spec.ResourceClaims[i]
		if ask.ResourceClaimTemplateName == nil {
			continue
		}
		name, err := r.generated(ctx, pod, ask)
		if err != nil {
			r.recorder.Eventf(pod, corev1.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", ask.Name, err)
			return ctrl.Result{}, fmt.Errorf("claim %s: %w", ask.Name, err)
		}
		made[ask.Name] = name
	}
	if statuses, changed := claimStatuses(pod, made); changed {
		copied := pod.DeepCopy()
		copied.Status.ResourceClaimStatuses = statuses
		return ctrl.Result{}, client.IgnoreNotFound(r.client.Status().Patch(ctx, copied, client.StrategicMergeFrom(pod)))
	}
	if pod.Spec.NodeName == "" {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, r.reserve(ctx, pod)
}

// generated returns the name of the claim that belongs to one line of a pod, and makes it if needed.
func (r *reconciler) generated(ctx context.Context, pod *corev1.Pod, ask *corev1.PodResourceClaim) (string, error) {
	for _, claim := range r.claims.Controlled(pod.Namespace, pod.UID) {
		if claim.Annotations[resourcev1.PodResourceClaimAnnotation] == ask.Name {
			return claim.Name, nil
		}
	}
	// What is in the pod's status was made once: only if it is surely gone is there a need for another.
	for _, status := range pod.Status.ResourceClaimStatuses {
		if status.Name != ask.Name || status.ResourceClaimName == nil {
			continue
		}
		err := r.client.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: *status.ResourceClaimName}, &resourcev1.ResourceClaim{})
		if !apierrors.IsNotFound(err) {
			return *status.ResourceClaimName, err
		}
	}
	template, ok := r.templates.Find(pod.Namespace, *ask.ResourceClaimTemplateName)
	if !ok {
		return "", apierrors.NewNotFound(resourcev1.Resource("resourceclaimtemplates"), *ask.ResourceClaimTemplateName)
	}
	if found, err := r.live(ctx, pod, ask.Name); err != nil || found != "" {
		return found, err
	}
	claim := claimFor(pod, ask.Name, template)
	if err := r.client.Create(ctx, claim); err != nil {
		return "", fmt.Errorf("create: %w", err)
	}
	return claim.Name, nil
}

// live looks for a claim that was made so recently that the cache does not show it: their names are random, so the API server would
// take a second one.
func (r *reconciler) live(ctx context.Context, pod *corev1.Pod, ask string) (string, error) {
	var list resourcev1.ResourceClaimList
	if err := r.client.List(ctx, &list, client.InNamespace(pod.Namespace)); err != nil {
		return "", fmt.Errorf("list claims: %w", err)
	}
	for i := range list.Items {
		if metav1.IsControlledBy(&list.Items[i], pod) && list.Items[i].Annotations[resourcev1.PodResourceClaimAnnotation] == ask {
			return list.Items[i].Name, nil
		}
	}
	return "", nil
}

// reserve reserves allocated claims for a pod that is on a node already.
func (r *reconciler) reserve(ctx context.Context, pod *corev1.Pod) error {
	for name := range draclaim.PodClaims(pod) {
		claim, ok := r.claims.Find(pod.Namespace, name)
		if !ok || claim.DeletionTimestamp != nil || claim.Status.Allocation == nil || draclaim.IsReservedForPod(pod, claim, false) || !draclaim.CanBeReserved(claim) {
			continue
		}
		changed := claim.DeepCopy()
		changed.Status.ReservedFor = append(changed.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if err := r.client.Status().Update(ctx, changed); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	return nil
}

// syncClaim takes back what stopped pods held of a claim.
func (r *reconciler) syncClaim(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	claim, ok := r.claims.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	valid, err := r.valid(ctx, claim)
	if err != nil {
		return ctrl.Result{}, err
	}
	next := planClaim(claim, valid)
	if next.status != nil {
		changed := claim.DeepCopy()
		changed.Status = *next.status
		if err := r.client.Status().Update(ctx, changed); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
		claim = changed
	}
	if next.free {
		changed := claim.DeepCopy()
		changed.Finalizers = slices.DeleteFunc(changed.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		if err := r.client.Update(ctx, changed); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
		claim = changed
	}
	if len(valid) > 0 || claim.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, r.removeWithPod(ctx, claim)
}

// valid returns the reservations of those who still need the claim.
func (r *reconciler) valid(ctx context.Context, claim *resourcev1.ResourceClaim) ([]resourcev1.ResourceClaimConsumerReference, error) {
	var valid []resourcev1.ResourceClaimConsumerReference
	for _, ref := range claim.Status.ReservedFor {
		if ref.APIGroup != "" || ref.Resource != "pods" {
			valid = append(valid, ref) // not ours to judge
			continue
		}
		pod, err := r.pod(ctx, claim.Namespace, ref.Name, ref.UID)
		if err != nil {
			return nil, err
		}
		if pod != nil && !done(pod) {
			valid = append(valid, ref)
		}
	}
	return valid, nil
}

// pod returns a pod of that uid, or nil if the API server has it no more.
func (r *reconciler) pod(ctx context.Context, namespace, name string, uid types.UID) (*corev1.Pod, error) {
	if pod, ok := r.pods.Find(namespace, name); ok && pod.UID == uid {
		return pod, nil
	}
	pod := &corev1.Pod{}
	err := r.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, pod)
	switch {
	case apierrors.IsNotFound(err), err == nil && pod.UID != uid:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get pod: %w", err)
	}
	return pod, nil
}

// removeWithPod deletes a claim whose pod has stopped: it would be free only when the pod itself is deleted.
func (r *reconciler) removeWithPod(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	owner := metav1.GetControllerOfNoCopy(claim)
	if owner == nil || owner.Kind != "Pod" || owner.APIVersion != "v1" {
		return nil
	}
	pod, ok := r.pods.Find(claim.Namespace, owner.Name)
	if !ok || pod.UID != owner.UID || !done(pod) {
		return nil
	}
	err := r.client.Delete(ctx, claim.DeepCopy(), client.Preconditions{UID: new(claim.UID)})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete claim: %w", err)
	}
	return nil
}
