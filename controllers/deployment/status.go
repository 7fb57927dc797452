package deployment

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Reasons of the condition Progressing, as kubectl rollout status reads them.
const (
	reasonSetUpdated     = "ReplicaSetUpdated"
	reasonSetCreateError = "ReplicaSetCreateError"
	reasonNewSet         = "NewReplicaSetCreated"
	reasonFoundSet       = "FoundNewReplicaSet"
	reasonAvailable      = "NewReplicaSetAvailable"
	reasonTimedOut       = "ProgressDeadlineExceeded"
	reasonPaused         = "DeploymentPaused"
	reasonResumed        = "DeploymentResumed"
)

func (r *Reconciler) condition(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) appsv1.DeploymentCondition {
	now := metav1.NewTime(r.Clock.Now())
	return appsv1.DeploymentCondition{Type: kind, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
}

func condition(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

// setCondition puts a condition in place unless it says what is there already: status and reason count, not the message.
func setCondition(status *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	old := condition(status, c.Type)
	if old != nil && old.Status == c.Status && old.Reason == c.Reason {
		return
	}
	if old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	removeCondition(status, c.Type)
	status.Conditions = append(status.Conditions, c)
}

func removeCondition(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) {
	status.Conditions = slices.DeleteFunc(slices.Clone(status.Conditions), func(c appsv1.DeploymentCondition) bool { return c.Type == kind })
}

// deadline returns the progress deadline; false if the Deployment may take for ever.
func deadline(d *appsv1.Deployment) (time.Duration, bool) {
	seconds := ptr.Deref(d.Spec.ProgressDeadlineSeconds, math.MaxInt32)
	return time.Duration(seconds) * time.Second, seconds != math.MaxInt32
}

// reportPause keeps the progress deadline from running while the rollout is paused.
func (r *Reconciler) reportPause(ctx context.Context, d *appsv1.Deployment) error {
	if _, ok := deadline(d); !ok {
		return nil
	}
	old := condition(&d.Status, appsv1.DeploymentProgressing)
	if old != nil && old.Reason == reasonTimedOut {
		return nil
	}
	pausedBefore := old != nil && old.Reason == reasonPaused
	switch {
	case d.Spec.Paused && !pausedBefore:
		setCondition(&d.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused"))
	case !d.Spec.Paused && pausedBefore:
		setCondition(&d.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed"))
	default:
		return nil
	}
	return r.Client.Status().Update(ctx, d)
}

// complete reports whether all replicas are of the new template and available.
func complete(d *appsv1.Deployment, status *appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return status.UpdatedReplicas == want && status.Replicas == want && status.AvailableReplicas == want &&
		status.ObservedGeneration >= d.Generation
}

// progressing reports whether a status is nearer to the goal than the one before.
func progressing(before, after *appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas || after.AvailableReplicas > before.AvailableReplicas
}

// timedOut reports whether there has been no progress for longer than the deadline.
func timedOut(d *appsv1.Deployment, status *appsv1.DeploymentStatus, now time.Time) bool {
	limit, ok := deadline(d)
	c := condition(status, appsv1.DeploymentProgressing)
	if !ok || c == nil || c.Reason == reasonAvailable {
		return false
	}
	return c.Reason == reasonTimedOut || c.LastUpdateTime.Add(limit).Before(now)
}

// stuckIn returns when to look again whether the deadline has passed; zero if nothing is waited for.
func stuckIn(d *appsv1.Deployment, now time.Time) time.Duration {
	limit, ok := deadline(d)
	c := condition(&d.Status, appsv1.DeploymentProgressing)
	if !ok || c == nil || d.Spec.Paused || complete(d, &d.Status) || c.Reason == reasonTimedOut {
		return 0
	}
	return max(c.LastUpdateTime.Add(limit).Sub(now), 0) + time.Second // conditions are whole seconds
}

// calculate returns the status but for what it says about progress.
func (r *Reconciler) calculate(o *rollout) appsv1.DeploymentStatus {
	sets := o.sets
	available := sum(sets, availableReplicas)
	var updated int32
	if o.new != nil {
		updated = o.new.Status.Replicas
	}
	status := appsv1.DeploymentStatus{
		ObservedGeneration:  o.d.Generation,
		Replicas:            sum(sets, statusReplicas),
		UpdatedReplicas:     updated,
		ReadyReplicas:       sum(sets, readyReplicas),
		AvailableReplicas:   available,
		UnavailableReplicas: max(0, sum(sets, specReplicas)-available),
		TerminatingReplicas: terminatingReplicas(sets),
		CollisionCount:      o.d.Status.CollisionCount,
		Conditions:          slices.Clone(o.d.Status.Conditions),
	}
	if available >= *o.d.Spec.Replicas-maxUnavailable(o.d) {
		setCondition(&status, r.condition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability."))
	} else {
		setCondition(&status, r.condition(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability."))
	}
	return status
}

// terminatingReplicas is unknown until every set has reported it.
func terminatingReplicas(sets []*appsv1.ReplicaSet) *int32 {
	var total int32
	for _, set := range sets {
		if set.Status.TerminatingReplicas == nil {
			return nil
		}
		total += *set.Status.TerminatingReplicas
	}
	return &total
}

// reportScale reports the numbers; whether the rollout gets on is not its business.
func (r *Reconciler) reportScale(ctx context.Context, o *rollout) error {
	return r.write(ctx, o, r.calculate(o))
}

// reportRollout reports the numbers and the progress of the rollout.
func (r *Reconciler) reportRollout(ctx context.Context, o *rollout) error {
	status := r.calculate(o)
	before := &o.d.Status
	current := condition(before, appsv1.DeploymentProgressing)
	subject := fmt.Sprintf("Deployment %q", o.d.Name)
	if o.new != nil {
		subject = fmt.Sprintf("ReplicaSet %q", o.new.Name)
	}
	settled := status.Replicas == status.UpdatedReplicas && current != nil && current.Reason == reasonAvailable
	if _, ok := deadline(o.d); !ok {
		removeCondition(&status, appsv1.DeploymentProgressing)
	} else if !settled {
		switch {
		case complete(o.d, &status):
			setCondition(&status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, subject+" has successfully progressed."))
		case progressing(before, &status):
			c := r.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonSetUpdated, subject+" is progressing.")
			if current != nil && current.Status == corev1.ConditionTrue {
				c.LastTransitionTime = current.LastTransitionTime
			}
			removeCondition(&status, appsv1.DeploymentProgressing) // the same reason again still moves the time of the last progress
			setCondition(&status, c)
		case timedOut(o.d, &status, r.Clock.Now()):
			setCondition(&status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing."))
		}
	}
	if failure := failureOf(o); failure != nil {
		setCondition(&status, *failure)
	} else {
		removeCondition(&status, appsv1.DeploymentReplicaFailure)
	}
	return r.write(ctx, o, status)
}

// failureOf passes on why a set cannot create its pods, the new set's word first.
func failureOf(o *rollout) *appsv1.DeploymentCondition {
	sets := o.sets
	if o.new != nil {
		sets = append([]*appsv1.ReplicaSet{o.new}, sets...)
	}
	for _, set := range sets {
		for _, c := range set.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

func (r *Reconciler) write(ctx context.Context, o *rollout, status appsv1.DeploymentStatus) error {
	written, ok := r.Deployments.Find(o.d.Namespace, o.d.Name)
	if ok && written.ResourceVersion == o.d.ResourceVersion && equality.Semantic.DeepEqual(written.Status, status) {
		o.d.Status = status
		return nil
	}
	o.d.Status = status
	if err := r.Client.Status().Update(ctx, o.d); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}
