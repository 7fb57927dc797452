package podplan

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"keelson.dev/kubelet-lite/cri"
)

// defaultGrace is the API's default, for pods that never passed it.
const defaultGrace = 30

// Deadline is when a pod has been active for as long as it may.
func Deadline(pod *corev1.Pod) (time.Time, bool) {
	if pod.Spec.ActiveDeadlineSeconds == nil || pod.Status.StartTime == nil {
		return time.Time{}, false
	}
	return pod.Status.StartTime.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second), true
}

// DeadlineExceeded reports whether the pod is out of time.
func DeadlineExceeded(pod *corev1.Pod, now time.Time) bool {
	deadline, ok := Deadline(pod)
	return ok && !now.Before(deadline)
}

// Terminating reports whether the pod is to be stopped and not to be started again: it was deleted, evicted, ran out of time, was
// written off in the API, or has nothing left to do.
func Terminating(pod *corev1.Pod, o Observed, now time.Time) bool {
	return pod.DeletionTimestamp != nil || o.Stop != nil || DeadlineExceeded(pod, now) || IsTerminal(pod.Status.Phase) || IsTerminal(Phase(pod, o))
}

// GracePeriod in seconds that a pod's containers have.
func GracePeriod(pod *corev1.Pod, stop *Stop) int64 {
	switch {
	case stop != nil && stop.Grace != nil:
		return *stop.Grace
	case pod.DeletionGracePeriodSeconds != nil:
		return *pod.DeletionGracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		return *pod.Spec.TerminationGracePeriodSeconds
	}
	return defaultGrace
}

// terminate stops the containers, sidecars last and in reverse order, then the sandboxes.
func (p *planner) terminate() {
	p.plan.Terminating = true
	grace := GracePeriod(p.pod, p.o.Stop)
	running := false
	for _, c := range p.o.Pod.Containers {
		if c.State != cri.Running && c.State != cri.Unknown {
			continue
		}
		running = true
		p.killInTurn(c, grace)
	}
	if running || p.starting() {
		return
	}
	stopping := false
	for _, s := range p.o.Pod.Sandboxes {
		if s.Ready {
			stopping = true
			p.do(Action{Key: Key{StopSandbox, s.ID}})
		}
	}
	p.plan.Done = !stopping && len(p.o.InFlight) == 0
}

// starting reports whether a sandbox or container may still appear.
func (p *planner) starting() bool {
	for key := range p.o.InFlight {
		if key.Kind == Start || key.Kind == CreateSandbox {
			return true
		}
	}
	return false
}

func (p *planner) killInTurn(c *cri.Container, grace int64) {
	wait := p.sidecarMustWait(c.Name)
	p.killWith(c, grace, wait, fmt.Sprintf("Stopping container %s", c.Name))
}

// sidecarMustWait reports whether a container that is needed by others still has to stay: a sidecar outlives the regular containers
// and the sidecars that were started after it.
func (p *planner) sidecarMustWait(name string) bool {
	for i := range p.pod.Spec.InitContainers {
		c := &p.pod.Spec.InitContainers[i]
		if c.Name != name {
			continue
		}
		if !cri.IsSidecar(c) {
			return false
		}
		for _, other := range p.o.Pod.Containers {
			if (other.State == cri.Running || other.State == cri.Unknown) && p.stopsBefore(other.Name, i) {
				return true
			}
		}
	}
	return false
}

// stopsBefore reports whether the named container has to stop before the i-th init container, a sidecar.
func (p *planner) stopsBefore(name string, i int) bool {
	for j := range p.pod.Spec.InitContainers {
		if c := &p.pod.Spec.InitContainers[j]; c.Name == name {
			return j > i && cri.IsSidecar(c)
		}
	}
	return true // a regular or ephemeral container
}

func (p *planner) kill(c *cri.Container, grace int64, message string) {
	p.killWith(c, grace, false, message)
}

// killWith plans to stop a container, or to stop it sooner than was planned before.
func (p *planner) killWith(c *cri.Container, grace int64, wait bool, message string) {
	key := Key{Kill, c.ID}
	if now, busy := p.o.InFlight[key]; busy && now.Grace <= grace && (!now.Wait || wait) {
		return
	}
	if p.held(key) {
		return
	}
	p.plan.Actions = append(p.plan.Actions, Action{Key: key, Container: c.Name, Grace: grace, Wait: wait, Message: message})
}
