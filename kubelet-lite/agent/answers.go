package agent

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/kubelet-lite/images"
	"keelson.dev/kubelet-lite/podplan"
	"keelson.dev/kubelet-lite/staticpods"
)

// find returns a pod by name, and the UID under which the runtime knows it.
func (a *agent) find(namespace, name string) (*corev1.Pod, types.UID, error) {
	for _, pod := range a.Pods() {
		if pod.Namespace == namespace && pod.Name == name {
			if staticpods.IsMirror(pod) {
				return pod, types.UID(pod.Annotations[staticpods.MirrorAnnotation]), nil
			}
			return pod, pod.UID, nil
		}
	}
	return nil, "", fmt.Errorf("pod %q not found in namespace %q", name, namespace)
}

// ContainerID answers the kubelet API's question which instance a container's name means.
func (a *agent) ContainerID(_ context.Context, namespace, name, container string, previous bool) (id, logPath string, err error) {
	pod, uid, err := a.find(namespace, name)
	if err != nil {
		return "", "", err
	}
	full, err := chooseInstance(pod, container, previous)
	if err != nil {
		return "", "", err
	}
	id = strings.TrimPrefix(full, a.prefix)
	if seen := a.workers.Runtime(uid); seen != nil {
		for _, c := range seen.Containers {
			if c.ID == id {
				return id, c.LogPath, nil
			}
		}
	}
	return id, "", nil
}

// chooseInstance picks the instance whose log a user wants to see, from the status that the user sees.
func chooseInstance(pod *corev1.Pod, container string, previous bool) (string, error) {
	var s *corev1.ContainerStatus
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == container {
				s = &list[i]
			}
		}
	}
	if s == nil {
		return "", fmt.Errorf("container %q in pod %q is not available", container, pod.Name)
	}
	last := ""
	if t := s.LastTerminationState.Terminated; t != nil {
		last = t.ContainerID
	}
	switch waiting := s.State.Waiting; {
	case previous && last == "":
		return "", fmt.Errorf("previous terminated container %q in pod %q not found", container, pod.Name)
	case previous:
		return last, nil
	case s.State.Running != nil:
		return s.ContainerID, nil
	case s.State.Terminated != nil && s.State.Terminated.ContainerID != "":
		return s.State.Terminated.ContainerID, nil
	case last != "":
		return last, nil
	case waiting == nil:
		return "", fmt.Errorf("container %q in pod %q is terminated", container, pod.Name)
	case waiting.Reason == images.ReasonErrImagePull:
		return "", fmt.Errorf("container %q in pod %q is waiting to start: image can't be pulled", container, pod.Name)
	case waiting.Reason == images.ReasonImagePullBackOff:
		return "", fmt.Errorf("container %q in pod %q is waiting to start: trying and failing to pull image", container, pod.Name)
	default:
		return "", fmt.Errorf("container %q in pod %q is waiting to start: %v", container, pod.Name, waiting.Reason)
	}
}

// SandboxID is the sandbox that a port is forwarded into.
func (a *agent) SandboxID(_ context.Context, namespace, name string) (string, error) {
	pod, uid, err := a.find(namespace, name)
	if err != nil {
		return "", err
	}
	seen := a.workers.Runtime(uid)
	if s := seen.Sandbox(); podplan.SandboxUsable(pod, s) {
		return s.ID, nil
	}
	return "", fmt.Errorf("pod %q in namespace %q has no running sandbox", name, namespace)
}
