package podplan

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/kubelet-lite/cri"
)

// IsTerminal reports whether a phase is final.
func IsTerminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// Phase is what the containers' states add up to, deletion and other reasons to stop aside. A terminal phase means that nothing but
// sidecars may still run.
func Phase(pod *corev1.Pod, o Observed) corev1.PodPhase {
	if o.Pod == nil {
		return corev1.PodPending
	}
	if !Initialized(pod, o) {
		if phase := initPhase(pod, o); phase != "" {
			return phase
		}
	}
	var waiting, alive, failed int
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		inst := o.Pod.Container(c.Name)
		switch {
		case inst == nil && !ranBefore(pod.Status.ContainerStatuses, c.Name):
			waiting++
		case inst == nil:
			alive++ // the runtime forgot it; it is about to be started again
		case o.Pod.Before(inst) == nil && (inst.State == cri.Created || (starting(o, inst) && !ranBefore(pod.Status.ContainerStatuses, c.Name))):
			waiting++
		case inst.State != cri.Exited || ShouldRestart(pod, c, inst):
			alive++
		case inst.ExitCode != 0:
			failed++
		}
	}
	switch {
	case waiting > 0:
		return corev1.PodPending
	case alive > 0:
		return corev1.PodRunning
	case failed > 0:
		return corev1.PodFailed
	}
	return corev1.PodSucceeded
}

// starting says whether a container runs whose start is not done, since its postStart hook has not returned.
func starting(o Observed, inst *cri.Container) bool {
	_, busy := o.InFlight[Key{Start, inst.Name}]
	return busy && inst.State == cri.Running
}

// initPhase is the phase of a pod whose init containers decide it; empty if they are done.
func initPhase(pod *corev1.Pod, o Observed) corev1.PodPhase {
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		inst := current(o.Pod, c.Name)
		if cri.IsSidecar(c) {
			if inst == nil || !Started(c, inst, o) {
				return corev1.PodPending
			}
			continue
		}
		switch {
		case inst == nil || inst.State != cri.Exited:
			return pendingUnlessRan(pod, o)
		case inst.ExitCode != 0 && !ShouldRestart(pod, c, inst):
			return corev1.PodFailed
		case inst.ExitCode != 0:
			return pendingUnlessRan(pod, o)
		}
	}
	return ""
}

// pendingUnlessRan: a pod whose containers are all over is not pending again only because its sandbox died after them.
func pendingUnlessRan(pod *corev1.Pod, o Observed) corev1.PodPhase {
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if inst := o.Pod.Container(c.Name); inst == nil || inst.State != cri.Exited || ShouldRestart(pod, c, inst) {
			return corev1.PodPending
		}
	}
	return ""
}

// FinalPhase is the phase of a pod that was stopped and is Done.
func FinalPhase(pod *corev1.Pod, o Observed) corev1.PodPhase {
	if IsTerminal(pod.Status.Phase) {
		return pod.Status.Phase
	}
	for i := range pod.Spec.Containers {
		inst := o.Pod.Container(pod.Spec.Containers[i].Name)
		if inst == nil || inst.State != cri.Exited || inst.ExitCode != 0 {
			return corev1.PodFailed
		}
	}
	return corev1.PodSucceeded
}
