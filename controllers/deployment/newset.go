package deployment

import (
	"context"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/internal/podtemplate"
)

// findNew returns the oldest ReplicaSet of the Deployment's current template, or nil.
func findNew(d *appsv1.Deployment, oldestFirst []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	for _, set := range oldestFirst {
		if podtemplate.EqualWithout(appsv1.DefaultDeploymentUniqueLabelKey, &set.Spec.Template, &d.Spec.Template) {
			return set
		}
	}
	return nil
}

// ensureNew makes sure that the ReplicaSet of the current template exists and carries the newest revision.
func (r *Reconciler) ensureNew(ctx context.Context, o *rollout) error {
	if o.new != nil {
		return r.adjustNew(ctx, o)
	}
	set := newSet(o.d, o.sets)
	err := r.wrote(o.d, set, r.Client.Create(ctx, set))
	switch {
	case apierrors.IsAlreadyExists(err):
		if set, err = r.existing(ctx, o.d, set); err != nil {
			return err
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case err != nil:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", set.Name, err)
		if o.d.Spec.ProgressDeadlineSeconds != nil {
			setCondition(&o.d.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonSetCreateError, message))
			if statusErr := r.Client.Status().Update(ctx, o.d); statusErr != nil {
				return statusErr
			}
		}
		r.Recorder.Event(o.d, corev1.EventTypeWarning, reasonSetCreateError, message)
		return fmt.Errorf("create replica set: %w", err)
	default:
		if *set.Spec.Replicas > 0 {
			r.Recorder.Eventf(o.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", set.Name, *set.Spec.Replicas)
		}
	}
	o.new = set
	o.sets = append(o.sets, set)
	return r.mark(ctx, o, reasonNewSet, fmt.Sprintf("Created new replica set %q", set.Name))
}

// existing answers a create that found the name taken: by our own set that the cache does not show yet, or by a collision of
// hashes, which the next attempt avoids.
func (r *Reconciler) existing(ctx context.Context, d *appsv1.Deployment, wanted *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	found := &appsv1.ReplicaSet{}
	if err := r.Client.Get(ctx, client.ObjectKeyFromObject(wanted), found); err != nil {
		return nil, fmt.Errorf("get replica set: %w", err)
	}
	if ref := metav1.GetControllerOfNoCopy(found); ref != nil && ref.UID == d.UID &&
		podtemplate.EqualWithout(appsv1.DefaultDeploymentUniqueLabelKey, &found.Spec.Template, &wanted.Spec.Template) {
		return found, nil
	}
	d.Status.CollisionCount = new(ptr.Deref(d.Status.CollisionCount, 0) + 1)
	if err := r.Client.Status().Update(ctx, d); err != nil {
		return nil, fmt.Errorf("count collision: %w", err)
	}
	return nil, apierrors.NewConflict(appsv1.Resource("replicasets"), wanted.Name, fmt.Errorf("hash collision"))
}

// newSet returns the ReplicaSet of the current template.
func newSet(d *appsv1.Deployment, old []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	template := d.Spec.Template.DeepCopy()
	hash := podtemplate.Hash(template, d.Status.CollisionCount)
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	selector := d.Spec.Selector.DeepCopy()
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-" + hash, Namespace: d.Namespace,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
			Labels:          maps.Clone(template.Labels),
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To[int32](0), MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template,
		},
	}
	set.Spec.Replicas = new(newSetReplicas(d, append(append([]*appsv1.ReplicaSet{}, old...), set), set))
	annotate(d, set, maxRevision(old)+1, false)
	setSizeAnnotations(set, *d.Spec.Replicas, *d.Spec.Replicas+maxSurge(d))
	return set
}

// adjustNew brings annotations and minReadySeconds of the existing new set up to date.
func (r *Reconciler) adjustNew(ctx context.Context, o *rollout) error {
	next := o.new.DeepCopy()
	annotate(o.d, next, maxRevision(o.old)+1, true)
	next.Spec.MinReadySeconds = o.d.Spec.MinReadySeconds
	if !equality.Semantic.DeepEqual(next, o.new) {
		if err := r.wrote(o.d, next, r.Client.Update(ctx, next)); err != nil {
			return fmt.Errorf("update replica set %s: %w", next.Name, err)
		}
		o.replace(next)
	}
	if condition(&o.d.Status, appsv1.DeploymentProgressing) != nil {
		return r.mark(ctx, o, "", "")
	}
	return r.mark(ctx, o, reasonFoundSet, fmt.Sprintf("Found new replica set %q", o.new.Name))
}

// mark writes the revision of the new set to the Deployment, where kubectl reads it, and the progress that its appearance is. The
// revision goes by /status, which takes annotations: it is no change of what the user wants, and not counted as a generation.
func (r *Reconciler) mark(ctx context.Context, o *rollout, reason, message string) error {
	if reason != "" && o.d.Spec.ProgressDeadlineSeconds != nil {
		// Written with the rest of the status at the end of this step, if not here.
		setCondition(&o.d.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reason, message))
	}
	revision := o.new.Annotations[RevisionAnnotation]
	if revision == "" || o.d.Annotations[RevisionAnnotation] == revision {
		return nil
	}
	metav1.SetMetaDataAnnotation(&o.d.ObjectMeta, RevisionAnnotation, revision)
	if err := r.Client.Status().Update(ctx, o.d); err != nil {
		return fmt.Errorf("write revision: %w", err)
	}
	return nil
}
