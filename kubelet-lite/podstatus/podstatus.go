// Package podstatus turns what is observed of a pod into the status that the API shows. It is pure; the reasons and messages are
// those that users and controllers know from Kubernetes.
package podstatus

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/podplan"
)

// Reasons and messages of a pod that ran out of time.
const (
	reasonDeadlineExceeded  = "DeadlineExceeded"
	messageDeadlineExceeded = "Pod was active on the node longer than the specified deadline"
)

// Input is what a status rests on.
type Input struct {
	Pod      *corev1.Pod // with the resources that were granted and the status that was last written
	Observed podplan.Observed
	Plan     podplan.Plan
	Now      time.Time
	IDPrefix string // "containerd://"
	// Devices tells how the devices of a container are; nil: nobody knows.
	Devices func(*corev1.Pod, *corev1.Container) []corev1.ResourceStatus
	// Resize are the conditions of a resize that is pending or in progress.
	Resize []corev1.PodCondition
	// PodResources are the pod-level resources in force; nil if the pod has none.
	PodResources *corev1.ResourceRequirements
	// RecursiveReadOnly says whether the pod's runtime handler can do recursive read-only mounts.
	RecursiveReadOnly bool
}

// For returns the status of a pod.
func For(in Input) corev1.PodStatus {
	if in.Observed.Pod == nil {
		in.Observed.Pod = &cri.Pod{}
	}
	pod, old := in.Pod, in.Pod.Status
	if podplan.IsTerminal(old.Phase) && len(in.Observed.Pod.Containers) == 0 {
		return *old.DeepCopy() // all is said: it was rejected, or its containers are gone
	}
	status := *old.DeepCopy()
	status.ObservedGeneration = pod.Generation
	status.QOSClass = cri.QOSClass(pod)
	status.Phase = phase(in)
	status.Reason, status.Message = why(in, status.Phase)
	if status.StartTime == nil {
		now := metav1.NewTime(in.Now).Rfc3339Copy()
		status.StartTime = &now
	}
	setIPs(&status, in)
	initialized := podplan.Initialized(pod, in.Observed)
	status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses = nil, nil, nil
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		status.InitContainerStatuses = append(status.InitContainerStatuses, in.container(c, find(old.InitContainerStatuses, c.Name), initRole(c), initialized))
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		s := in.container(c, find(old.ContainerStatuses, c.Name), regular, initialized)
		if in.Devices != nil {
			s.AllocatedResourcesStatus = in.Devices(pod, c)
		}
		status.ContainerStatuses = append(status.ContainerStatuses, s)
	}
	for i := range pod.Spec.EphemeralContainers {
		c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		status.EphemeralContainerStatuses = append(status.EphemeralContainerStatuses, in.container(&c, find(old.EphemeralContainerStatuses, c.Name), ephemeral, initialized))
	}
	status.AllocatedResources = resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	status.Resources = in.podResources(status.AllocatedResources)
	status.Conditions = conditions(in, &status, initialized)
	return status
}

// Rejected is the status of a pod that the node has not admitted.
func Rejected(pod *corev1.Pod, reason, message string, now time.Time) corev1.PodStatus {
	status := *pod.Status.DeepCopy()
	start := metav1.NewTime(now).Rfc3339Copy()
	status.ObservedGeneration = pod.Generation
	status.Phase, status.Reason, status.Message = corev1.PodFailed, reason, "Pod was rejected: "+message
	status.QOSClass, status.StartTime = cri.QOSClass(pod), &start
	return status
}

// phase delays a terminal phase until nothing runs any more: whoever sees it may hand the pod's resources to another one.
func phase(in Input) corev1.PodPhase {
	old, computed := in.Pod.Status.Phase, podplan.Phase(in.Pod, in.Observed)
	switch {
	case podplan.IsTerminal(old):
		return old
	case in.Plan.Done && (in.Observed.Stop != nil || podplan.DeadlineExceeded(in.Pod, in.Now)):
		return corev1.PodFailed
	case in.Plan.Done && podplan.IsTerminal(computed):
		return computed
	case in.Plan.Done:
		return podplan.FinalPhase(in.Pod, in.Observed)
	case podplan.IsTerminal(computed) && old == "":
		return corev1.PodRunning
	case podplan.IsTerminal(computed), in.Plan.Terminating && old != "":
		return old
	}
	return computed
}

func why(in Input, phase corev1.PodPhase) (reason, message string) {
	switch stop := in.Observed.Stop; {
	case podplan.IsTerminal(in.Pod.Status.Phase):
		return in.Pod.Status.Reason, in.Pod.Status.Message
	case stop != nil:
		return stop.Reason, stop.Message
	case podplan.DeadlineExceeded(in.Pod, in.Now) && phase != corev1.PodSucceeded:
		return reasonDeadlineExceeded, messageDeadlineExceeded
	}
	return "", ""
}

// setIPs keeps the addresses of a pod that is over: the API promises them until it is gone.
func setIPs(status *corev1.PodStatus, in Input) {
	if host := in.Observed.HostIPs; len(host) > 0 {
		status.HostIP, status.HostIPs = host[0], nil
		for _, ip := range host {
			status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: ip})
		}
	}
	sandbox := in.Observed.Pod.Sandbox()
	if sandbox == nil || !sandbox.Ready {
		return
	}
	ips := sandbox.IPs
	if in.Pod.Spec.HostNetwork {
		ips = in.Observed.HostIPs
	}
	status.PodIP, status.PodIPs = "", nil
	for _, ip := range ips {
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		status.PodIP = ips[0]
	}
}

func find(list []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	i := slices.IndexFunc(list, func(s corev1.ContainerStatus) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &list[i]
}
