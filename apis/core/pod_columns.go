package core

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/apis/resource"
)

func podColumns() []resource.Column[*corev1.Pod] {
	return resource.Columns(
		resource.Column[*corev1.Pod]{Name: "Ready", Description: "The aggregate readiness state of this pod for accepting traffic.", Get: func(p *corev1.Pod) any {
			s := summarize(p)
			return fmt.Sprintf("%d/%d", s.ready, s.total)
		}},
		resource.Column[*corev1.Pod]{
			Name: "Status", Description: "The aggregate status of the containers in this pod.",
			Get: func(p *corev1.Pod) any { return summarize(p).reason },
		},
		resource.Column[*corev1.Pod]{
			Name: "Restarts", Description: "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
			Get: func(p *corev1.Pod) any { return summarize(p).restartsCell() },
		},
		resource.Column[*corev1.Pod]{Name: "IP", Priority: 1, Description: corev1.PodStatus{}.SwaggerDoc()["podIP"], Get: func(p *corev1.Pod) any { return orNone(firstPodIP(p)) }},
		resource.Column[*corev1.Pod]{Name: "Node", Priority: 1, Description: corev1.PodSpec{}.SwaggerDoc()["nodeName"], Get: func(p *corev1.Pod) any { return orNone(p.Spec.NodeName) }},
		resource.Column[*corev1.Pod]{Name: "Nominated Node", Priority: 1, Description: corev1.PodStatus{}.SwaggerDoc()["nominatedNodeName"], Get: func(p *corev1.Pod) any { return orNone(p.Status.NominatedNodeName) }},
		resource.Column[*corev1.Pod]{Name: "Readiness Gates", Priority: 1, Description: corev1.PodSpec{}.SwaggerDoc()["readinessGates"], Get: readinessGatesCell},
	)
}

// podRowConditions lets printers tell pods that have ended from those that run.
func podRowConditions(p *corev1.Pod) []metav1.TableRowCondition {
	message := map[corev1.PodPhase]string{corev1.PodSucceeded: "The pod has completed successfully.", corev1.PodFailed: "The pod failed."}[p.Status.Phase]
	if message == "" {
		return nil
	}
	return []metav1.TableRowCondition{{Type: metav1.RowCompleted, Status: metav1.ConditionTrue, Reason: string(p.Status.Phase), Message: message}}
}

func orNone(value string) string {
	if value == "" {
		return "<none>"
	}
	return value
}

func readinessGatesCell(p *corev1.Pod) any {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	met := 0
	for _, gate := range p.Spec.ReadinessGates {
		if condition := podCondition(&p.Status, gate.ConditionType); condition != nil && condition.Status == corev1.ConditionTrue {
			met++
		}
	}
	return fmt.Sprintf("%d/%d", met, len(p.Spec.ReadinessGates))
}

func podCondition(status *corev1.PodStatus, conditionType corev1.PodConditionType) *corev1.PodCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == conditionType {
			return &status.Conditions[i]
		}
	}
	return nil
}

// podSummary is what one line of kubectl get pods tells about a pod.
type podSummary struct {
	ready, total int
	reason       string
	restarts     int
	lastRestart  metav1.Time
}

func (s podSummary) restartsCell() string {
	if s.restarts == 0 || s.lastRestart.IsZero() {
		return strconv.Itoa(s.restarts)
	}
	return fmt.Sprintf("%d (%s ago)", s.restarts, resource.Age(s.lastRestart))
}

// summarize follows the order in which a pod comes up: the first init container that is not done gives the reason; once all are,
// the first container that waits or has ended does.
func summarize(p *corev1.Pod) podSummary {
	s := podSummary{total: len(p.Spec.Containers), reason: string(p.Status.Phase)}
	if p.Status.Reason != "" {
		s.reason = p.Status.Reason
	}
	if c := podCondition(&p.Status, corev1.PodScheduled); c != nil && c.Reason == corev1.PodReasonSchedulingGated {
		s.reason = corev1.PodReasonSchedulingGated
	}
	sidecars := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if IsSidecar(&p.Spec.InitContainers[i]) {
			sidecars[p.Spec.InitContainers[i].Name] = true
			s.total++
		}
	}
	initializing := s.addInitContainers(p, sidecars)
	initialized := podCondition(&p.Status, corev1.PodInitialized)
	if !initializing || initialized != nil && initialized.Status == corev1.ConditionTrue {
		s.addContainers(p, sidecars)
	}
	switch {
	case p.DeletionTimestamp == nil:
	case p.Status.Reason == "NodeLost":
		s.reason = "Unknown"
	case !IsPodFinished(p):
		s.reason = "Terminating"
	}
	return s
}

// IsSidecar tells whether an init container keeps running beside the others.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (s *podSummary) countRestarts(status *corev1.ContainerStatus) {
	s.restarts += int(status.RestartCount)
	if ended := status.LastTerminationState.Terminated; ended != nil && s.lastRestart.Before(&ended.FinishedAt) {
		s.lastRestart = ended.FinishedAt
	}
}

// addInitContainers tells whether the pod is still initializing.
func (s *podSummary) addInitContainers(p *corev1.Pod, sidecars map[string]bool) bool {
	for i := range p.Status.InitContainerStatuses {
		status := &p.Status.InitContainerStatuses[i]
		s.countRestarts(status)
		ended, waiting := status.State.Terminated, status.State.Waiting
		switch {
		case ended != nil && ended.ExitCode == 0:
			continue
		case sidecars[status.Name] && status.Started != nil && *status.Started:
			if status.Ready {
				s.ready++
			}
			continue
		case ended != nil:
			s.reason = "Init:" + endReason(ended)
		case waiting != nil && waiting.Reason != "" && waiting.Reason != "PodInitializing":
			s.reason = "Init:" + waiting.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return true
	}
	return false
}

// addContainers begins the count of restarts anew: those of finished init containers are history, those of sidecars are not.
func (s *podSummary) addContainers(p *corev1.Pod, sidecars map[string]bool) {
	s.restarts, s.lastRestart = 0, metav1.Time{}
	for i := range p.Status.InitContainerStatuses {
		if sidecars[p.Status.InitContainerStatuses[i].Name] {
			s.countRestarts(&p.Status.InitContainerStatuses[i])
		}
	}
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		status := &p.Status.ContainerStatuses[i]
		s.countRestarts(status)
		switch {
		case status.State.Waiting != nil && status.State.Waiting.Reason != "":
			s.reason = status.State.Waiting.Reason
		case status.State.Terminated != nil:
			s.reason = endReason(status.State.Terminated)
		case status.Ready && status.State.Running != nil:
			running = true
			s.ready++
		}
	}
	if s.reason == "Completed" && running {
		s.reason = "NotReady"
		if ready := podCondition(&p.Status, corev1.PodReady); ready != nil && ready.Status == corev1.ConditionTrue {
			s.reason = "Running"
		}
	}
}

func endReason(ended *corev1.ContainerStateTerminated) string {
	switch {
	case ended.Reason != "":
		return ended.Reason
	case ended.Signal != 0:
		return fmt.Sprintf("Signal:%d", ended.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", ended.ExitCode)
}
