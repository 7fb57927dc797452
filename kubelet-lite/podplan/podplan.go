// Package podplan decides what must happen next for one pod. It is pure: from the pod's spec, what is observed, and the time, to a
// list of actions. Every hard rule of a pod's life stands here and nowhere else:
//
//	sandbox ─▶ init containers, in order ─▶ containers ─▶ (restart after back-off)* ─▶ stop ─▶ sandbox stopped ─▶ Done
//	             (a sidecar only has to have started)        ▲ probes, spec changes kill
//
// A plan never waits. Actions are started by the pod's worker and run side by side; while one runs it is listed as in flight, and
// the worker asks for a new plan as soon as anything changes or the time that the plan names has come.
package podplan

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"keelson.dev/kubelet-lite/cri"
)

// Kind of an action.
type Kind string

// The actions. All but Pull, Start and SetUpVolumes name what they act on by ID.
const (
	SetUpVolumes    Kind = "SetUpVolumes"
	CreateSandbox   Kind = "CreateSandbox"
	StopSandbox     Kind = "StopSandbox"
	RemoveSandbox   Kind = "RemoveSandbox"
	Pull            Kind = "Pull"
	Start           Kind = "Start"
	Kill            Kind = "Kill"
	RemoveContainer Kind = "RemoveContainer"
	Resize          Kind = "Resize"
)

// Key identifies an action while it is in flight: for Pull and Start the container's name, else an ID.
type Key struct {
	Kind   Kind
	Target string
}

// Action is one step.
type Action struct {
	Key
	Container string // name, where one is concerned

	Attempt int           // CreateSandbox, Start: how many came before
	BackOff time.Duration // Start: how long to wait after this instance exits

	Sandboxes  []string // CreateSandbox: what it replaces and must stop first
	Containers []string // CreateSandbox: instances of init containers that will run again, removed first

	Grace   int64  // Kill: seconds
	Wait    bool   // Kill: run preStop, but hold the stop signal until the plan says Kill again without Wait, or grace is over
	Message string // Kill: why, for the event
}

// InFlight describes a running action.
type InFlight struct {
	Grace int64
	Wait  bool
}

// Result of a probe.
type Result int

// A probe that is not defined has no result: its kind decides what that means.
const (
	Undecided Result = iota
	Success
	Failure
)

// Probes are the latest results for one running container instance.
type Probes struct{ Startup, Liveness, Readiness Result }

// Image is what is known about a container's image.
type Image struct {
	Name    string // as in the spec
	Ref     string // set once it is present
	User    cri.ImageUser
	Reason  string // ErrImagePull, ImagePullBackOff, …
	Message string
	RetryAt time.Time
}

// Setback is an action that did not succeed and when it may be tried again.
type Setback struct {
	Reason  string // of the waiting state
	Message string
	RetryAt time.Time
	Count   int
}

// Stop asks to end a pod that is not (yet) deleted: eviction, preemption, node shutdown, removal from its source.
type Stop struct {
	Reason, Message string
	Grace           *int64               // seconds; nil: the pod's own
	Condition       *corev1.PodCondition // DisruptionTarget, where it applies
}

// Disrupted is the condition of a pod that the node ends for others' sake.
func Disrupted(message string) *corev1.PodCondition {
	return &corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: message}
}

// Observed is all that a plan and a status rest on besides the spec.
type Observed struct {
	Pod      *cri.Pod
	HostIPs  []string
	Volumes  bool // all are set up
	Setbacks map[Key]Setback
	Images   map[string]Image
	InFlight map[Key]InFlight
	Probes   map[string]Probes // by container ID
	Doomed   map[string]string // by container ID: why it must be killed, apart from probes
	Stop     *Stop
	Resize   bool              // a running container's resources differ from what is allocated and can be changed in place
	Messages map[string]string // by container ID: what a dead container left as its termination message
}

// Plan is what to do now.
type Plan struct {
	Actions []Action
	// Again is when to plan anew if nothing happens before; zero means only events matter.
	Again time.Time
	// BackingOff are the containers that wait before they are started again.
	BackingOff []string
	// Terminating means that nothing will be started any more: work in progress that only serves a start may be dropped.
	Terminating bool
	// Done means that nothing runs and nothing will: volumes and cgroups can go, the final status can be written.
	Done bool
}

type planner struct {
	pod  *corev1.Pod
	o    Observed
	now  time.Time
	plan Plan
}

// For returns the plan for a pod.
func For(pod *corev1.Pod, o Observed, now time.Time) Plan {
	if o.Pod == nil {
		o.Pod = &cri.Pod{}
	}
	p := &planner{pod: pod, o: o, now: now}
	if deadline, ok := Deadline(pod); ok && now.Before(deadline) {
		p.again(deadline)
	}
	if Terminating(pod, o, now) {
		p.terminate()
		return p.plan
	}
	p.collectGarbage()
	p.setUpVolumes()
	if !p.sandbox() {
		return p.plan
	}
	if p.restartAll() {
		return p.plan
	}
	if p.initContainers() {
		for i := range pod.Spec.Containers {
			p.mainContainer(&pod.Spec.Containers[i])
		}
	}
	p.ephemeralContainers()
	if p.o.Resize {
		p.do(Action{Key: Key{Resize, ""}})
	}
	return p.plan
}

// do plans an action, unless it is under way or has to wait after a setback.
func (p *planner) do(a Action) {
	if _, busy := p.o.InFlight[a.Key]; !busy && !p.held(a.Key) {
		p.plan.Actions = append(p.plan.Actions, a)
	}
}

func (p *planner) busy(kind Kind, target string) bool {
	_, busy := p.o.InFlight[Key{kind, target}]
	return busy
}

func (p *planner) again(t time.Time) {
	if p.plan.Again.IsZero() || t.Before(p.plan.Again) {
		p.plan.Again = t
	}
}

// held reports whether an action has to wait after a setback, and sees to it that it is planned again in time.
func (p *planner) held(key Key) bool {
	retry := p.o.Setbacks[key].RetryAt
	if retry.After(p.now) {
		p.again(retry)
		return true
	}
	return false
}

func (p *planner) setUpVolumes() {
	if !p.o.Volumes {
		p.do(Action{Key: Key{SetUpVolumes, ""}})
	}
}

// collectGarbage keeps the newest two instances of each container (the second is `kubectl logs --previous`) and the sandboxes that
// still hold one.
func (p *planner) collectGarbage() {
	seen, used := map[string]int{}, map[string]bool{}
	for _, c := range p.o.Pod.Containers {
		seen[c.Name]++
		if seen[c.Name] > 2 && c.State != cri.Running && c.State != cri.Unknown && !p.busy(Start, c.Name) {
			p.do(Action{Key: Key{RemoveContainer, c.ID}, Container: c.Name})
			continue
		}
		used[c.SandboxID] = true
	}
	for i, s := range p.o.Pod.Sandboxes {
		if i > 0 && !used[s.ID] && !s.Ready {
			p.do(Action{Key: Key{RemoveSandbox, s.ID}})
		}
	}
}
