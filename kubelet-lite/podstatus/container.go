package podstatus

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/internal/features"
	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/podplan"
)

// Reasons of container states.
const (
	ReasonCreating     = "ContainerCreating"
	ReasonInitializing = "PodInitializing"
	ReasonCrashLoop    = "CrashLoopBackOff"
	ReasonUnknown      = "ContainerStatusUnknown"
	ReasonCompleted    = "Completed"
	ReasonError        = "Error"

	messageNotFoundDeleted = "The container could not be located when the pod was deleted.  The container used to be Running"
	messageNotFoundStopped = "The container could not be located when the pod was terminated"
	exitCodeUnknown        = 137
)

type role int

const (
	regular role = iota
	initOnce
	sidecar
	ephemeral
)

func initRole(c *corev1.Container) role {
	if cri.IsSidecar(c) {
		return sidecar
	}
	return initOnce
}

func (in Input) container(c *corev1.Container, old *corev1.ContainerStatus, r role, initialized bool) corev1.ContainerStatus {
	inst := in.shown(c.Name)
	started := false
	status := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &started}
	in.setResources(&status, c, inst)
	status.VolumeMounts = volumeMounts(c, in.RecursiveReadOnly)
	if inst == nil {
		in.neverSeen(&status, c, old, r, initialized)
		return status
	}
	status.ContainerID, status.Image, status.ImageID = in.IDPrefix+inst.ID, inst.Image, inst.ImageRef
	status.RestartCount = int32(inst.RestartCount)
	if features.Enabled("ContainerStopSignals") {
		status.StopSignal = cri.SignalName(inst.StopSignal)
	}
	if u := inst.User; u != nil {
		status.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	if prev := in.Observed.Pod.Before(inst); prev != nil && prev.State == cri.Exited {
		status.LastTerminationState.Terminated = in.terminated(prev)
	}
	in.setState(&status, c, inst, r, initialized)
	switch {
	case status.State.Running != nil:
		started = podplan.Started(c, inst, in.Observed)
		status.Ready = started && r != initOnce && in.ready(c, inst)
	case r == initOnce:
		status.Ready = status.State.Terminated != nil && inst.ExitCode == 0
	}
	if r == ephemeral {
		status.Ready, status.Started = false, nil
	}
	if podplan.IsTerminal(phase(in)) && r != initOnce {
		status.Ready = false
	}
	return status
}

// shown is the instance that the status is about: the newest, but the one before it while its successor is only being made.
func (in Input) shown(name string) *cri.Container {
	inst := in.Observed.Pod.Container(name)
	prev := in.Observed.Pod.Before(inst)
	if _, starting := in.Observed.InFlight[podplan.Key{Kind: podplan.Start, Target: name}]; starting && inst != nil && inst.State == cri.Created && prev != nil {
		return prev
	}
	return inst
}

// neverSeen is the status of a container of which the runtime knows no instance.
func (in Input) neverSeen(status *corev1.ContainerStatus, c *corev1.Container, old *corev1.ContainerStatus, r role, initialized bool) {
	if old != nil && old.ContainerID != "" {
		status.RestartCount, status.LastTerminationState = old.RestartCount, old.LastTerminationState
		switch {
		case old.State.Terminated != nil && (in.Plan.Terminating || r == initOnce || r == ephemeral):
			started := status.Started
			resources, allocated := status.Resources, status.AllocatedResources
			*status = *old.DeepCopy()
			status.Started, status.Resources, status.AllocatedResources = started, resources, allocated
			return
		case old.State.Terminated != nil:
			status.LastTerminationState.Terminated = old.State.Terminated
		case old.State.Running != nil:
			status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
				ExitCode: exitCodeUnknown, Reason: ReasonUnknown, Message: messageNotFoundDeleted,
			}
		}
	}
	if in.Plan.Done && (initialized || len(in.Pod.Spec.InitContainers) == 0) { // otherwise it was never due
		status.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: exitCodeUnknown, Reason: ReasonUnknown, Message: messageNotFoundStopped}
		return
	}
	status.State.Waiting = in.waiting(c, r, initialized)
}

func (in Input) setState(status *corev1.ContainerStatus, c *corev1.Container, inst *cri.Container, r role, initialized bool) {
	_, starting := in.Observed.InFlight[podplan.Key{Kind: podplan.Start, Target: c.Name}]
	switch inst.State {
	case cri.Running, cri.Unknown:
		if starting && inst.State == cri.Running && !in.Plan.Terminating {
			status.State.Waiting = in.waiting(c, r, initialized) // its postStart hook has not returned
			return
		}
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: seconds(inst.StartedAt)}
	case cri.Exited:
		restarts := !in.Plan.Terminating && r != ephemeral && podplan.ShouldRestart(in.Pod, c, inst)
		if w := in.waitingToRestart(c, inst, starting); restarts && w != nil {
			status.State.Waiting, status.LastTerminationState.Terminated = w, in.terminated(inst)
			return
		}
		status.State.Terminated = in.terminated(inst)
	default:
		if in.Plan.Done {
			status.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: exitCodeUnknown, Reason: ReasonUnknown, Message: messageNotFoundStopped, ContainerID: status.ContainerID}
			return
		}
		status.State.Waiting = in.waiting(c, r, initialized)
	}
}

// waiting is the state of a container before its first instance.
func (in Input) waiting(c *corev1.Container, r role, initialized bool) *corev1.ContainerStateWaiting {
	if w := in.setback(c); w != nil {
		return w
	}
	if len(in.Pod.Spec.InitContainers) > 0 && !initialized && r != ephemeral {
		return &corev1.ContainerStateWaiting{Reason: ReasonInitializing}
	}
	return &corev1.ContainerStateWaiting{Reason: ReasonCreating}
}

// waitingToRestart is the state of a container between two instances, or nil if the next one is due at once.
func (in Input) waitingToRestart(c *corev1.Container, inst *cri.Container, starting bool) *corev1.ContainerStateWaiting {
	if starting {
		return nil
	}
	if ready, _ := podplan.BackOff(c, inst); ready.After(in.Now) {
		return &corev1.ContainerStateWaiting{Reason: ReasonCrashLoop, Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
			inst.BackOff, c.Name, in.Pod.Name, in.Pod.Namespace, in.Pod.UID)}
	}
	return in.setback(c)
}

// setback is the reason why the last try to start a container did not get far.
func (in Input) setback(c *corev1.Container) *corev1.ContainerStateWaiting {
	if image, ok := in.Observed.Images[c.Name]; ok && image.Name == c.Image && image.Reason != "" {
		return &corev1.ContainerStateWaiting{Reason: image.Reason, Message: image.Message}
	}
	if s, ok := in.Observed.Setbacks[podplan.Key{Kind: podplan.Start, Target: c.Name}]; ok && s.Reason != "" {
		return &corev1.ContainerStateWaiting{Reason: s.Reason, Message: s.Message}
	}
	return nil
}

func (in Input) terminated(inst *cri.Container) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: inst.ExitCode, Reason: inst.Reason, Message: strings.TrimSpace(inst.Message),
		StartedAt: seconds(inst.StartedAt), FinishedAt: seconds(inst.FinishedAt), ContainerID: in.IDPrefix + inst.ID,
	}
	if own := in.Observed.Messages[inst.ID]; own != "" {
		if t.Message != "" {
			t.Message += ": "
		}
		t.Message += own
	}
	switch {
	case t.Reason != "":
	case t.ExitCode == 0:
		t.Reason = ReasonCompleted
	default:
		t.Reason = ReasonError
	}
	return t
}

func (in Input) ready(c *corev1.Container, inst *cri.Container) bool {
	return c.ReadinessProbe == nil || in.Observed.Probes[inst.ID].Readiness == podplan.Success
}

// seconds is the precision of the API: a finer time would differ from what comes back, and be written again and again.
func seconds(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.Truncate(time.Second))
}

func volumeMounts(c *corev1.Container, recursive bool) []corev1.VolumeMountStatus {
	var out []corev1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if want := m.RecursiveReadOnly; want != nil && (*want == corev1.RecursiveReadOnlyEnabled || *want == corev1.RecursiveReadOnlyIfPossible && recursive) {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}
