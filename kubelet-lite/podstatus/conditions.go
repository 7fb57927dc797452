package podstatus

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/podplan"
)

// Reasons of conditions.
const (
	reasonPodCompleted       = "PodCompleted"
	reasonPodFailed          = "PodFailed"
	reasonNotReady           = "ContainersNotReady"
	reasonNotInitialized     = "ContainersNotInitialized"
	reasonGatesNotReady      = "ReadinessGatesNotReady"
	incompleteStatusMessage  = "containers with incomplete status: [%s]"
	unreadyContainersMessage = "containers with unready status: [%s]"
)

// conditions are the kubelet's own, in the order that kubectl shows, after those that others have set.
func conditions(in Input, status *corev1.PodStatus, initialized bool) []corev1.PodCondition {
	containersReady := containersReadyCondition(in.Pod, status)
	own := []corev1.PodCondition{
		readyToStartCondition(in),
		initializedCondition(in.Pod, status, initialized),
		readyCondition(in.Pod, containersReady),
		containersReady,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	if stop := in.Observed.Stop; stop != nil && stop.Condition != nil {
		own = append(own, *stop.Condition)
	}
	own = append(own, in.Resize...)
	if podplan.RestartingAll(in.Pod, in.Observed) != nil && !in.Plan.Terminating {
		own = append(own, corev1.PodCondition{Type: corev1.AllContainersRestarting, Status: corev1.ConditionTrue})
	}
	var out []corev1.PodCondition
	for _, c := range own {
		c.ObservedGeneration = max(c.ObservedGeneration, in.Pod.Generation)
		c.LastTransitionTime = metav1.NewTime(in.Now).Rfc3339Copy()
		if old := condition(in.Pod.Status.Conditions, c.Type); old != nil && old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		out = append(out, c)
	}
	for _, c := range in.Pod.Status.Conditions {
		if condition(own, c.Type) == nil && !passing(c.Type) {
			out = append(out, c)
		}
	}
	return out
}

// passing conditions exist only while what they tell of lasts.
func passing(t corev1.PodConditionType) bool {
	return t == corev1.PodResizePending || t == corev1.PodResizeInProgress || t == corev1.AllContainersRestarting
}

func condition(list []corev1.PodCondition, t corev1.PodConditionType) *corev1.PodCondition {
	i := slices.IndexFunc(list, func(c corev1.PodCondition) bool { return c.Type == t })
	if i < 0 {
		return nil
	}
	return &list[i]
}

func readyToStartCondition(in Input) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse}
	if podplan.SandboxUsable(in.Pod, in.Observed.Pod.Sandbox()) {
		c.Status = corev1.ConditionTrue
	}
	return c
}

func initializedCondition(pod *corev1.Pod, status *corev1.PodStatus, initialized bool) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	if status.Phase == corev1.PodSucceeded {
		c.Reason = reasonPodCompleted
		return c
	}
	if initialized {
		return c
	}
	var incomplete []string
	for i := range status.InitContainerStatuses {
		s := &status.InitContainerStatuses[i]
		// A sidecar has done its part once it has started; another init container only when it has succeeded.
		started := cri.IsSidecar(&pod.Spec.InitContainers[i]) && s.State.Running != nil && s.Started != nil && *s.Started
		if !s.Ready && !started {
			incomplete = append(incomplete, s.Name)
		}
	}
	if len(incomplete) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, reasonNotInitialized, fmt.Sprintf(incompleteStatusMessage, strings.Join(incomplete, " "))
	}
	return c
}

func containersReadyCondition(pod *corev1.Pod, status *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	switch status.Phase {
	case corev1.PodSucceeded:
		c.Reason = reasonPodCompleted
		return c
	case corev1.PodFailed:
		c.Reason = reasonPodFailed
		return c
	default: // its containers tell
	}
	var unready []string
	for i := range pod.Spec.InitContainers {
		if s := &status.InitContainerStatuses[i]; cri.IsSidecar(&pod.Spec.InitContainers[i]) && !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	for i := range status.ContainerStatuses {
		if s := &status.ContainerStatuses[i]; !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	if len(unready) == 0 {
		c.Status = corev1.ConditionTrue
		return c
	}
	c.Reason, c.Message = reasonNotReady, fmt.Sprintf(unreadyContainersMessage, strings.Join(unready, " "))
	return c
}

func readyCondition(pod *corev1.Pod, containersReady corev1.PodCondition) corev1.PodCondition {
	c := containersReady
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	var missing []string
	for _, gate := range pod.Spec.ReadinessGates {
		switch have := condition(pod.Status.Conditions, gate.ConditionType); {
		case have == nil:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case have.Status != corev1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, have.Status))
		}
	}
	if len(missing) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, reasonGatesNotReady, strings.Join(missing, ", ")
	}
	return c
}
