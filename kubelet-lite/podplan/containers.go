package podplan

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"keelson.dev/kubelet-lite/cri"
)

// current returns the newest instance of a container if it lives in the newest sandbox. Init containers run once per sandbox.
func current(pod *cri.Pod, name string) *cri.Container {
	inst := pod.Container(name)
	if s := pod.Sandbox(); inst != nil && s != nil && inst.SandboxID == s.ID {
		return inst
	}
	return nil
}

// Initialized reports whether any regular container has been started in the newest sandbox: init containers are over then, and do not
// run again even if the runtime no longer knows them.
func Initialized(pod *corev1.Pod, o Observed) bool {
	for i := range pod.Spec.Containers {
		if current(o.Pod, pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// initContainers reports whether the regular containers may run.
func (p *planner) initContainers() bool {
	initialized := Initialized(p.pod, p.o)
	ready := true // everything before this container has done its part
	for i := range p.pod.Spec.InitContainers {
		c := &p.pod.Spec.InitContainers[i]
		inst := current(p.o.Pod, c.Name)
		if initialized {
			if cri.IsSidecar(c) {
				p.sidecar(c, inst)
			}
			continue
		}
		if inst == nil && !ready {
			return false // later ones have not run either
		}
		if cri.IsSidecar(c) {
			ready = p.sidecar(c, inst) && ready
		} else {
			ready = p.initContainer(c, inst) && ready
		}
	}
	return initialized || ready
}

// initContainer reports whether it has succeeded.
func (p *planner) initContainer(c *corev1.Container, inst *cri.Container) bool {
	if inst == nil || inst.State == cri.Created {
		p.start(c, inst)
		return false
	}
	switch inst.State {
	case cri.Running:
		if p.busy(Start, c.Name) {
			return false
		}
		p.keep(c, inst)
	case cri.Unknown:
		p.kill(inst, GracePeriod(p.pod, nil), fmt.Sprintf("Init container is in %q state, try killing it before restart", inst.State))
	case cri.Exited:
		if inst.ExitCode == 0 {
			return true
		}
		if ShouldRestart(p.pod, c, inst) {
			p.start(c, inst)
		}
	default: // created: seen above
	}
	return false
}

// sidecar reports whether it has started, which is all that those after it wait for.
func (p *planner) sidecar(c *corev1.Container, inst *cri.Container) bool {
	p.mainContainer(c)
	return inst != nil && inst.State == cri.Running && !p.busy(Start, c.Name) && Started(c, inst, p.o)
}

// Started reports whether a running instance has passed its startup probe, if it has one.
func Started(c *corev1.Container, inst *cri.Container, o Observed) bool {
	return inst.State == cri.Running && (c.StartupProbe == nil || o.Probes[inst.ID].Startup == Success)
}

// mainContainer keeps one regular container or sidecar as it should be.
func (p *planner) mainContainer(c *corev1.Container) {
	inst := p.o.Pod.Container(c.Name)
	switch {
	case p.busy(Start, c.Name):
	case inst == nil || inst.State == cri.Created:
		p.start(c, inst)
	case inst.State == cri.Running:
		p.keep(c, inst)
	case inst.State == cri.Unknown:
		p.kill(inst, GracePeriod(p.pod, nil), fmt.Sprintf("Container is in %q state, try killing it before restart", inst.State))
	case ShouldRestart(p.pod, c, inst):
		p.start(c, inst)
	}
}

// keep kills a running container that has to go: its spec changed, a probe failed, or its postStart hook did. What follows is
// decided by its restart policy once it has exited.
func (p *planner) keep(c *corev1.Container, inst *cri.Container) {
	probes, grace := p.o.Probes[inst.ID], GracePeriod(p.pod, nil)
	restart := ""
	if restartsOnFailure(p.pod, c) {
		restart = ", will be restarted"
	}
	switch {
	case inst.Hash != "" && inst.Hash != cri.Hash(c):
		p.kill(inst, grace, fmt.Sprintf("Container %s definition changed, will be restarted", c.Name))
	case p.o.Doomed[inst.ID] != "":
		p.kill(inst, grace, p.o.Doomed[inst.ID])
	case probes.Startup == Failure && c.StartupProbe != nil:
		p.kill(inst, probeGrace(c.StartupProbe, grace), fmt.Sprintf("Container %s failed startup probe%s", c.Name, restart))
	case probes.Liveness == Failure && c.LivenessProbe != nil:
		p.kill(inst, probeGrace(c.LivenessProbe, grace), fmt.Sprintf("Container %s failed liveness probe%s", c.Name, restart))
	}
}

func probeGrace(probe *corev1.Probe, grace int64) int64 {
	if probe.TerminationGracePeriodSeconds != nil {
		return *probe.TerminationGracePeriodSeconds
	}
	return grace
}

// ephemeralContainers are started once, never again, and need nothing but the sandbox.
func (p *planner) ephemeralContainers() {
	for i := range p.pod.Spec.EphemeralContainers {
		c := corev1.Container(p.pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		inst := p.o.Pod.Container(c.Name)
		if inst != nil && inst.State != cri.Created {
			continue
		}
		if inst == nil && ranBefore(p.pod.Status.EphemeralContainerStatuses, c.Name) {
			continue
		}
		p.start(&c, inst)
	}
}

func ranBefore(statuses []corev1.ContainerStatus, name string) bool {
	s := containerStatus(statuses, name)
	return s != nil && s.ContainerID != ""
}

// start plans the first or next instance of a container as soon as all it needs is there.
func (p *planner) start(c *corev1.Container, prev *cri.Container) {
	key := Key{Start, c.Name}
	if p.busy(Start, c.Name) || p.held(key) {
		return
	}
	if prev != nil && prev.State == cri.Created {
		// It was made but never started: the agent died in between. Its mounts and addresses may be out of date.
		p.do(Action{Key: Key{RemoveContainer, prev.ID}, Container: c.Name})
		return
	}
	a := Action{Key: key, Container: c.Name, Attempt: p.attempt(c, prev)}
	if prev != nil {
		ready, next := BackOff(c, prev)
		if ready.After(p.now) {
			p.plan.BackingOff = append(p.plan.BackingOff, c.Name)
			p.again(ready)
			return
		}
		a.BackOff = next
	} else if a.Attempt > 0 {
		a.BackOff = min(backOffStart<<min(a.Attempt-1, 10), backOffMax) // the instance before took its own memory with it
	}
	if p.image(c) && p.o.Volumes {
		p.do(a)
	}
}

// attempt is the restart count of the next instance. Should the runtime have lost its memory, the API remembers.
func (p *planner) attempt(c *corev1.Container, prev *cri.Container) int {
	if prev != nil {
		return prev.RestartCount + 1
	}
	status := p.pod.Status
	for _, list := range [][]corev1.ContainerStatus{status.ContainerStatuses, status.InitContainerStatuses} {
		if s := containerStatus(list, c.Name); s != nil && (s.ContainerID != "" || s.LastTerminationState.Terminated != nil) {
			return int(s.RestartCount) + 1
		}
	}
	return 0
}

func containerStatus(list []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// image reports whether a container's image is present and plans to get it if not.
func (p *planner) image(c *corev1.Container) bool {
	have := p.o.Images[c.Name]
	if have.Name == c.Image && have.Ref != "" {
		return true
	}
	if have.Name == c.Image && have.RetryAt.After(p.now) {
		p.again(have.RetryAt)
		return false
	}
	p.do(Action{Key: Key{Pull, c.Name}, Container: c.Name})
	return false
}
