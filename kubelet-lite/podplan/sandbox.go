package podplan

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/kubelet-lite/cri"
)

// sandbox reports whether the newest sandbox can hold containers. If not, it plans a new one, after everything that runs in an old
// one has been stopped.
func (p *planner) sandbox() bool {
	if p.busy(CreateSandbox, "") {
		p.prefetch()
		return false
	}
	newest := p.o.Pod.Sandbox()
	if SandboxUsable(p.pod, newest) && p.onlyReady(newest) {
		return true
	}
	if p.stopRunning() {
		return false // first things first
	}
	if newest != nil && !p.worthRestarting() {
		return false
	}
	key := Key{CreateSandbox, ""}
	if !p.held(key) {
		a := Action{Key: key}
		if newest != nil {
			a.Attempt = int(newest.Attempt) + 1
		}
		for _, s := range p.o.Pod.Sandboxes {
			a.Sandboxes = append(a.Sandboxes, s.ID)
		}
		for i := range p.pod.Spec.InitContainers {
			for _, c := range p.o.Pod.Containers {
				if c.Name == p.pod.Spec.InitContainers[i].Name {
					a.Containers = append(a.Containers, c.ID)
				}
			}
		}
		p.do(a)
	}
	p.prefetch()
	return false
}

// SandboxUsable reports whether containers can be started in a sandbox.
func SandboxUsable(pod *corev1.Pod, s *cri.Sandbox) bool {
	return s != nil && s.Ready && s.HostNetwork == pod.Spec.HostNetwork && (pod.Spec.HostNetwork || len(s.IPs) > 0)
}

// onlyReady guards against two living sandboxes: an agent that died at the wrong moment can leave them behind.
func (p *planner) onlyReady(newest *cri.Sandbox) bool {
	for _, s := range p.o.Pod.Sandboxes {
		if s != newest && s.Ready {
			return false
		}
	}
	return true
}

func (p *planner) stopRunning() bool {
	stopping := false
	for _, c := range p.o.Pod.Containers {
		if c.State == cri.Running || c.State == cri.Unknown {
			stopping = true
			p.kill(c, GracePeriod(p.pod, p.o.Stop), "Pod sandbox changed, it will be killed and re-created.")
		}
	}
	return stopping
}

// worthRestarting reports whether a new sandbox would have anything to run.
func (p *planner) worthRestarting() bool {
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		inst := p.o.Pod.Container(c.Name)
		if inst == nil || inst.State != cri.Exited || ShouldRestart(p.pod, c, inst) {
			return true
		}
	}
	return false
}

// prefetch gets the images of the containers that will be started first while the sandbox is being made.
func (p *planner) prefetch() {
	if len(p.pod.Spec.InitContainers) > 0 {
		p.image(&p.pod.Spec.InitContainers[0])
		return
	}
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		if inst := p.o.Pod.Container(c.Name); inst == nil || ShouldRestart(p.pod, c, inst) {
			p.image(c)
		}
	}
}
