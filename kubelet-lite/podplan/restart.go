package podplan

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"keelson.dev/kubelet-lite/cri"
)

// Crash back-off: the first restart is at once, then after 10 s, doubling to five minutes; an instance that ran for ten minutes is
// forgiven.
const (
	backOffStart = 10 * time.Second
	backOffMax   = 5 * time.Minute
	backOffReset = 10 * time.Minute
)

// BackOff says when the instance after prev may start, and what it leaves to its own successor. It needs no memory: each instance
// carries its delay in an annotation.
func BackOff(c *corev1.Container, prev *cri.Container) (ready time.Time, next time.Duration) {
	changed := prev.Hash != "" && prev.Hash != cri.Hash(c)
	if changed || prev.FinishedAt.Sub(prev.StartedAt) > backOffReset && !prev.StartedAt.IsZero() {
		return time.Time{}, backOffStart
	}
	if prev.BackOff == 0 {
		return time.Time{}, backOffStart
	}
	ended := prev.FinishedAt
	if ended.IsZero() {
		ended = prev.CreatedAt
	}
	return ended.Add(prev.BackOff), min(2*prev.BackOff, backOffMax)
}

// ShouldRestart decides whether an exited instance is followed by another one: by the container's rules, then its own policy, then
// the pod's. An init container that succeeded is done under every policy.
func ShouldRestart(pod *corev1.Pod, c *corev1.Container, inst *cri.Container) bool {
	if inst.State != cri.Exited {
		return false
	}
	init := isInit(pod, c.Name)
	if init && !cri.IsSidecar(c) && inst.ExitCode == 0 {
		return false
	}
	if !init && inst.Hash != "" && inst.Hash != cri.Hash(c) {
		return true // it was stopped to be replaced
	}
	if rule := matchingRule(c, inst.ExitCode); rule != nil {
		return true
	}
	switch policy(pod, c) {
	case corev1.RestartPolicyAlways:
		return true
	case corev1.RestartPolicyOnFailure:
		return inst.ExitCode != 0
	default:
		return false
	}
}

// restartsOnFailure reports whether the policies, exit codes aside, restart a container that is killed.
func restartsOnFailure(pod *corev1.Pod, c *corev1.Container) bool {
	return policy(pod, c) != corev1.RestartPolicyNever
}

func policy(pod *corev1.Pod, c *corev1.Container) corev1.RestartPolicy {
	if c.RestartPolicy != nil {
		return corev1.RestartPolicy(*c.RestartPolicy)
	}
	if pod.Spec.RestartPolicy == "" {
		return corev1.RestartPolicyAlways
	}
	return pod.Spec.RestartPolicy
}

// matchingRule returns the first rule that speaks for an exit code.
func matchingRule(c *corev1.Container, exitCode int32) *corev1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		codes := c.RestartPolicyRules[i].ExitCodes
		if codes == nil {
			continue
		}
		in := slices.Contains(codes.Values, exitCode)
		if in == (codes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return &c.RestartPolicyRules[i]
		}
	}
	return nil
}

// RestartingAll returns the container whose exit makes the whole pod start over, or nil: its rule says RestartAllContainers.
func RestartingAll(pod *corev1.Pod, o Observed) *corev1.Container {
	if o.Pod == nil {
		return nil
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			inst := current(o.Pod, list[i].Name)
			if inst == nil || inst.State != cri.Exited {
				continue
			}
			if rule := matchingRule(&list[i], inst.ExitCode); rule != nil && rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return &list[i]
			}
		}
	}
	return nil
}

// restartAll starts the pod over inside its sandbox: everything is stopped, and once the back-off is over forgotten, so that init
// containers run again.
func (p *planner) restartAll() bool {
	trigger := RestartingAll(p.pod, p.o)
	if trigger == nil {
		return false
	}
	waiting := false
	for _, c := range p.o.Pod.Containers {
		if c.State == cri.Running || c.State == cri.Unknown {
			waiting = true
			p.kill(c, GracePeriod(p.pod, p.o.Stop), "Stopping container "+c.Name+" because all containers of the pod restart")
		}
		waiting = waiting || p.busy(Start, c.Name)
	}
	if waiting {
		return true
	}
	if ready, _ := BackOff(trigger, p.o.Pod.Container(trigger.Name)); ready.After(p.now) {
		p.plan.BackingOff = append(p.plan.BackingOff, trigger.Name)
		p.again(ready)
		return true
	}
	for _, c := range p.o.Pod.Containers {
		p.do(Action{Key: Key{RemoveContainer, c.ID}, Container: c.Name})
	}
	return true
}

func isInit(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
}
