package podplan

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/kubelet-lite/cri"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

type podOption func(*corev1.Pod)

func newPod(options ...podOption) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways}}
	for _, o := range options {
		o(pod)
	}
	return pod
}

func main(names ...string) podOption {
	return func(p *corev1.Pod) {
		for _, n := range names {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: n, Image: "i"})
		}
	}
}

func initc(name string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: name, Image: "i"})
	}
}

func sidecar(name string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: name, Image: "i", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)})
	}
}

func policyIs(policy corev1.RestartPolicy) podOption {
	return func(p *corev1.Pod) { p.Spec.RestartPolicy = policy }
}

func deleted(grace int64) podOption {
	return func(p *corev1.Pod) {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: now}, &grace
	}
}

func edit(f func(*corev1.Pod)) podOption { return f }

// world builds what is observed.
type world struct{ Observed }

func seen(parts ...func(*world)) Observed {
	w := &world{Observed{
		Pod: &cri.Pod{UID: "u"}, Volumes: true, Images: map[string]Image{}, InFlight: map[Key]InFlight{}, Setbacks: map[Key]Setback{},
		Probes: map[string]Probes{}, Doomed: map[string]string{},
	}}
	for _, p := range parts {
		p(w)
	}
	return w.Observed
}

func sandbox(id string, attempt uint32, ready bool) func(*world) {
	return func(w *world) {
		w.Pod.Sandboxes = append(w.Pod.Sandboxes, &cri.Sandbox{ID: id, Attempt: attempt, Ready: ready, IPs: []string{"10.0.0.1"}})
	}
}

var ready = sandbox("s", 0, true)

func inst(name string, state cri.State, exit int32, options ...func(*cri.Container)) func(*world) {
	return func(w *world) {
		c := &cri.Container{
			ID: fmt.Sprintf("%s-%d", name, len(w.Pod.Containers)), Name: name, State: state, ExitCode: exit, SandboxID: "s",
			CreatedAt: now.Add(-time.Minute), StartedAt: now.Add(-time.Minute), Hash: cri.Hash(&corev1.Container{Name: name, Image: "i"}),
		}
		if state == cri.Exited {
			c.FinishedAt = now.Add(-time.Second)
		}
		for _, o := range options {
			o(c)
		}
		w.Pod.Containers = append(w.Pod.Containers, c)
	}
}

func running(name string, options ...func(*cri.Container)) func(*world) {
	return inst(name, cri.Running, 0, options...)
}

func exited(name string, code int32, options ...func(*cri.Container)) func(*world) {
	return inst(name, cri.Exited, code, options...)
}

func images(names ...string) func(*world) {
	return func(w *world) {
		for _, n := range names {
			w.Images[n] = Image{Name: "i", Ref: "sha"}
		}
	}
}

func flying(kind Kind, target string, f ...InFlight) func(*world) {
	return func(w *world) {
		w.InFlight[Key{kind, target}] = InFlight{}
		if len(f) > 0 {
			w.InFlight[Key{kind, target}] = f[0]
		}
	}
}

func with(f func(*Observed)) func(*world) { return func(w *world) { f(&w.Observed) } }

// text writes a plan in one line per action, which is easier to review than structures.
func text(p Plan) []string {
	var out []string
	for _, a := range p.Actions {
		line := string(a.Kind) + " " + a.Target
		if a.Kind == Start || a.Kind == CreateSandbox {
			line += fmt.Sprintf(" #%d", a.Attempt)
		}
		if a.BackOff > 0 {
			line += " then " + a.BackOff.String()
		}
		if a.Kind == Kill {
			line += fmt.Sprintf(" %ds", a.Grace)
		}
		if a.Wait {
			line += " wait"
		}
		for _, s := range a.Sandboxes {
			line += " -" + s
		}
		for _, c := range a.Containers {
			line += " -" + c
		}
		out = append(out, line)
	}
	for _, name := range p.BackingOff {
		out = append(out, "back-off "+name)
	}
	if !p.Again.IsZero() {
		out = append(out, "again in "+p.Again.Sub(now).String())
	}
	if p.Terminating {
		out = append(out, "terminating")
	}
	if p.Done {
		out = append(out, "done")
	}
	return out
}

type planCase struct {
	pod  *corev1.Pod
	seen Observed
	want []string
}

func check(t *testing.T, cases map[string]planCase) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, text(For(c.pod, c.seen, now))); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStart(t *testing.T) {
	check(t, map[string]planCase{
		"new pod: everything at once": {
			newPod(main("a", "b")), seen(with(func(o *Observed) { o.Volumes = false })),
			[]string{"SetUpVolumes ", "CreateSandbox  #0", "Pull a", "Pull b"},
		},
		"while the sandbox is made, nothing twice": {
			newPod(main("a")), seen(flying(CreateSandbox, ""), flying(Pull, "a")), nil,
		},
		"sandbox ready, image missing": {newPod(main("a")), seen(ready), []string{"Pull a"}},
		"image pull backs off": {newPod(main("a")), seen(ready, with(func(o *Observed) {
			o.Images["a"] = Image{Name: "i", Reason: "ErrImagePull", RetryAt: now.Add(5 * time.Second)}
		})), []string{"again in 5s"}},
		"image pull is due": {newPod(main("a")), seen(ready, with(func(o *Observed) {
			o.Images["a"] = Image{Name: "i", Reason: "ErrImagePull", RetryAt: now}
		})), []string{"Pull a"}},
		"image of an older spec does not count": {newPod(main("a")), seen(ready, with(func(o *Observed) {
			o.Images["a"] = Image{Name: "old", Ref: "sha"}
		})), []string{"Pull a"}},
		"all there": {newPod(main("a", "b")), seen(ready, images("a", "b")), []string{"Start a #0", "Start b #0"}},
		"no start before the volumes": {
			newPod(main("a")), seen(ready, images("a"), with(func(o *Observed) { o.Volumes = false })), []string{"SetUpVolumes "},
		},
		"volumes back off": {newPod(main("a")), seen(ready, images("a"), with(func(o *Observed) {
			o.Volumes = false
			o.Setbacks[Key{SetUpVolumes, ""}] = Setback{RetryAt: now.Add(time.Second)}
		})), []string{"again in 1s"}},
		"start backs off": {newPod(main("a")), seen(ready, images("a"), with(func(o *Observed) {
			o.Setbacks[Key{Start, "a"}] = Setback{RetryAt: now.Add(2 * time.Second)}
		})), []string{"again in 2s"}},
		"one runs, one is starting":                {newPod(main("a", "b")), seen(ready, running("a"), flying(Start, "b")), nil},
		"made but never started":                   {newPod(main("a")), seen(ready, images("a"), inst("a", cri.Created, 0)), []string{"RemoveContainer a-0"}},
		"being started, made already":              {newPod(main("a")), seen(ready, inst("a", cri.Created, 0), flying(Start, "a")), nil},
		"unknown state: kill it first":             {newPod(main("a")), seen(ready, inst("a", cri.Unknown, 0)), []string{"Kill a-0 30s"}},
		"sandbox without an address is not usable": {newPod(main("a")), seen(with(func(o *Observed) { o.Pod.Sandboxes = []*cri.Sandbox{{ID: "s", Ready: true}} })), []string{"CreateSandbox  #1 -s", "Pull a"}},
		"host network needs no address": {
			newPod(main("a"), edit(func(p *corev1.Pod) { p.Spec.HostNetwork = true })),
			seen(images("a"), with(func(o *Observed) { o.Pod.Sandboxes = []*cri.Sandbox{{ID: "s", Ready: true, HostNetwork: true}} })),
			[]string{"Start a #0"},
		},
		"the API remembers restarts that the runtime forgot": {
			newPod(main("a"), edit(func(p *corev1.Pod) {
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", ContainerID: "x://1", RestartCount: 4}}
			})), seen(ready, images("a")), []string{"Start a #5 then 2m40s"},
		},
	})
}

func TestSandbox(t *testing.T) {
	gone := sandbox("s", 3, false)
	check(t, map[string]planCase{
		"died: a new one, and init containers run again": {
			newPod(initc("i"), main("a")), seen(gone, exited("a", 137), exited("i", 0)), []string{"CreateSandbox  #4 -s -i-1", "Pull i"},
		},
		"died: what still runs is stopped first": {newPod(main("a")), seen(gone, running("a")), []string{"Kill a-0 30s"}},
		"died, policy Never, all over":           {newPod(policyIs(corev1.RestartPolicyNever), main("a")), seen(gone, exited("a", 1)), []string{"terminating", "done"}},
		"died, policy OnFailure, one failed": {
			newPod(policyIs(corev1.RestartPolicyOnFailure), main("a", "b")), seen(gone, exited("a", 1), exited("b", 0)), []string{"CreateSandbox  #4 -s", "Pull a"},
		},
		"creation backs off": {newPod(main("a")), seen(images("a"), with(func(o *Observed) {
			o.Setbacks[Key{CreateSandbox, ""}] = Setback{RetryAt: now.Add(time.Second)}
		})), []string{"again in 1s"}},
		"two alive: neither is trusted":              {newPod(main("a")), seen(images("a"), sandbox("s", 1, true), sandbox("old", 0, true)), []string{"CreateSandbox  #2 -s -old"}},
		"old empty ones go":                          {newPod(main("a")), seen(ready, sandbox("old", 0, false), running("a")), []string{"RemoveSandbox old"}},
		"old ones with a log stay":                   {newPod(main("a")), seen(ready, sandbox("old", 0, false), running("a"), exited("a", 1, func(c *cri.Container) { c.SandboxID = "old" })), nil},
		"only two instances of a container are kept": {newPod(main("a")), seen(ready, running("a"), exited("a", 1), exited("a", 1), exited("a", 1)), []string{"RemoveContainer a-2", "RemoveContainer a-3"}},
	})
}

func TestInitContainers(t *testing.T) {
	two := newPod(initc("i1"), initc("i2"), main("a"))
	check(t, map[string]planCase{
		"only the first image is got early":        {two, seen(), []string{"CreateSandbox  #0", "Pull i1"}},
		"first":                                    {two, seen(ready, images("i1", "i2", "a")), []string{"Start i1 #0"}},
		"first runs":                               {two, seen(ready, images("i2", "a"), running("i1")), nil},
		"second":                                   {two, seen(ready, images("i2", "a"), exited("i1", 0)), []string{"Start i2 #0"}},
		"then the containers":                      {two, seen(ready, images("a"), exited("i2", 0), exited("i1", 0)), []string{"Start a #0"}},
		"failed once: again at once":               {two, seen(ready, images("i1"), exited("i1", 1)), []string{"Start i1 #1 then 10s"}},
		"failed twice: after a while":              {two, seen(ready, images("i1"), exited("i1", 1, backOff(10*time.Second))), []string{"back-off i1", "again in 9s"}},
		"failed for good":                          {newPod(policyIs(corev1.RestartPolicyNever), initc("i"), main("a")), seen(ready, exited("i", 1)), []string{"StopSandbox s", "terminating"}},
		"over: not run again though forgotten":     {two, seen(ready, running("a")), nil},
		"success is not repeated by policy Always": {newPod(initc("i"), main("a")), seen(ready, running("a"), exited("i", 0)), nil},
		"its own sandbox only":                     {newPod(initc("i"), main("a")), seen(ready, images("i"), exited("i", 0, func(c *cri.Container) { c.SandboxID = "old" })), []string{"Start i #0"}},
	})
}

func backOff(d time.Duration) func(*cri.Container) { return func(c *cri.Container) { c.BackOff = d } }

func TestSidecars(t *testing.T) {
	pod := newPod(sidecar("s1"), initc("i"), sidecar("s2"), main("a"))
	startup := newPod(sidecar("s1"), main("a"), edit(func(p *corev1.Pod) { p.Spec.InitContainers[0].StartupProbe = &corev1.Probe{} }))
	all := images("s1", "i", "s2", "a")
	check(t, map[string]planCase{
		"first":                        {pod, seen(ready, all), []string{"Start s1 #0"}},
		"started is enough":            {pod, seen(ready, all, running("s1")), []string{"Start i #0"}},
		"next sidecar":                 {pod, seen(ready, all, running("s1"), exited("i", 0)), []string{"Start s2 #0"}},
		"containers":                   {pod, seen(ready, all, running("s1"), exited("i", 0), running("s2")), []string{"Start a #0"}},
		"startup probe undecided":      {startup, seen(ready, all, running("s1")), nil},
		"startup probe passed":         {startup, seen(ready, all, running("s1"), probed("s1-0", Probes{Startup: Success})), []string{"Start a #0"}},
		"startup probe failed":         {startup, seen(ready, all, running("s1"), probed("s1-0", Probes{Startup: Failure})), []string{"Kill s1-0 30s"}},
		"dies during init: both go on": {pod, seen(ready, all, exited("s1", 0), running("i")), []string{"Start s1 #1 then 10s"}},
		"dies before the next begins":  {pod, seen(ready, all, exited("s1", 0), exited("i", 0)), []string{"Start s1 #1 then 10s"}},
		"dies while containers run":    {pod, seen(ready, all, running("a"), exited("s1", 0), exited("i", 0), running("s2")), []string{"Start s1 #1 then 10s"}},
		"restarts even if the pod's policy is Never": {
			newPod(policyIs(corev1.RestartPolicyNever), sidecar("s1"), main("a")), seen(ready, all, running("a"), exited("s1", 1)), []string{"Start s1 #1 then 10s"},
		},
		"containers over: sidecars in reverse order": {
			newPod(policyIs(corev1.RestartPolicyNever), sidecar("s1"), sidecar("s2"), main("a")), seen(ready, exited("a", 0), running("s1"), running("s2")),
			[]string{"Kill s1-1 30s wait", "Kill s2-2 30s", "terminating"},
		},
		"last sidecar's turn": {
			newPod(policyIs(corev1.RestartPolicyNever), sidecar("s1"), sidecar("s2"), main("a")),
			seen(ready, exited("a", 0), running("s1"), exited("s2", 0), flying(Kill, "s1-1", InFlight{Grace: 30, Wait: true})),
			[]string{"Kill s1-1 30s", "terminating"},
		},
	})
}

func probed(id string, p Probes) func(*world) { return func(w *world) { w.Probes[id] = p } }

func TestRestart(t *testing.T) {
	always, onFailure, never := newPod(main("a", "b")), newPod(policyIs(corev1.RestartPolicyOnFailure), main("a", "b")), newPod(policyIs(corev1.RestartPolicyNever), main("a", "b"))
	longAgo := func(c *cri.Container) { c.StartedAt = now.Add(-time.Hour) }
	own := func(p corev1.ContainerRestartPolicy, rules ...corev1.ContainerRestartRule) podOption {
		return edit(func(pod *corev1.Pod) {
			pod.Spec.Containers[0].RestartPolicy, pod.Spec.Containers[0].RestartPolicyRules = &p, rules
		})
	}
	on := func(op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) corev1.ContainerRestartRule {
		return corev1.ContainerRestartRule{Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}
	}
	in, notIn := corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn
	b := running("b")
	check(t, map[string]planCase{
		"always, success":             {always, seen(ready, images("a"), exited("a", 0), b), []string{"Start a #1 then 10s"}},
		"always, failure":             {always, seen(ready, images("a"), exited("a", 1), b), []string{"Start a #1 then 10s"}},
		"on failure, success":         {onFailure, seen(ready, images("a"), exited("a", 0), b), nil},
		"on failure, failure":         {onFailure, seen(ready, images("a"), exited("a", 1), b), []string{"Start a #1 then 10s"}},
		"never":                       {never, seen(ready, images("a"), exited("a", 1), b), nil},
		"backs off":                   {always, seen(ready, images("a"), exited("a", 1, backOff(40*time.Second)), b), []string{"back-off a", "again in 39s"}},
		"back-off doubles":            {always, seen(ready, images("a"), exited("a", 1, backOff(40*time.Second), ended(time.Minute)), b), []string{"Start a #1 then 1m20s"}},
		"back-off is bounded":         {always, seen(ready, images("a"), exited("a", 1, backOff(5*time.Minute), ended(6*time.Minute)), b), []string{"Start a #1 then 5m0s"}},
		"back-off is forgiven":        {always, seen(ready, images("a"), exited("a", 1, backOff(5*time.Minute), longAgo), b), []string{"Start a #1 then 10s"}},
		"image is looked at again":    {always, seen(ready, exited("a", 1), b), []string{"Pull a"}},
		"own policy wins: never":      {newPod(main("a", "b"), own(corev1.ContainerRestartPolicyNever)), seen(ready, images("a"), exited("a", 1), b), nil},
		"own policy wins: on failure": {newPod(policyIs(corev1.RestartPolicyNever), main("a", "b"), own(corev1.ContainerRestartPolicyOnFailure)), seen(ready, images("a"), exited("a", 1), b), []string{"Start a #1 then 10s"}},
		"rule matches":                {newPod(main("a", "b"), own(corev1.ContainerRestartPolicyNever, on(in, 42))), seen(ready, images("a"), exited("a", 42), b), []string{"Start a #1 then 10s"}},
		"rule does not match":         {newPod(main("a", "b"), own(corev1.ContainerRestartPolicyNever, on(in, 42))), seen(ready, images("a"), exited("a", 41), b), nil},
		"rule with NotIn":             {newPod(main("a", "b"), own(corev1.ContainerRestartPolicyNever, on(notIn, 42))), seen(ready, images("a"), exited("a", 41), b), []string{"Start a #1 then 10s"}},
		"changed image: kill":         {newPod(main("a"), edit(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "new" })), seen(ready, running("a")), []string{"Kill a-0 30s"}},
		"changed image: again at once, whatever the policy": {
			newPod(policyIs(corev1.RestartPolicyNever), main("a"), edit(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "new" })),
			seen(ready, with(func(o *Observed) { o.Images["a"] = Image{Name: "new", Ref: "x"} }), exited("a", 0, backOff(time.Minute))),
			[]string{"Start a #1 then 10s"},
		},
	})
}

func TestRestartAllContainers(t *testing.T) {
	pod := newPod(initc("i"), main("a", "b"), edit(func(p *corev1.Pod) {
		p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{
			Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{88}},
		}}
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "i", ContainerID: "x", RestartCount: 2}}
	}))
	check(t, map[string]planCase{
		"another exit code":       {pod, seen(ready, images("a"), exited("a", 1), running("b"), exited("i", 0)), []string{"Start a #1 then 10s"}},
		"the others are stopped":  {pod, seen(ready, images("a"), exited("a", 88), running("b"), exited("i", 0)), []string{"Kill b-1 30s"}},
		"then all are forgotten":  {pod, seen(ready, exited("a", 88), exited("b", 0), exited("i", 0)), []string{"RemoveContainer a-0", "RemoveContainer b-1", "RemoveContainer i-2"}},
		"after the back-off":      {pod, seen(ready, exited("a", 88, backOff(10*time.Second)), exited("b", 0), exited("i", 0)), []string{"back-off a", "again in 9s"}},
		"and the pod starts over": {pod, seen(ready, images("i")), []string{"Start i #3 then 40s"}},
	})
}

func ended(ago time.Duration) func(*cri.Container) {
	return func(c *cri.Container) { c.FinishedAt, c.StartedAt = now.Add(-ago), now.Add(-ago-time.Second) }
}

func TestProbesKill(t *testing.T) {
	pod := newPod(main("a"), edit(func(p *corev1.Pod) {
		p.Spec.Containers[0].LivenessProbe, p.Spec.Containers[0].StartupProbe = &corev1.Probe{TerminationGracePeriodSeconds: new(int64(5))}, &corev1.Probe{}
		p.Spec.TerminationGracePeriodSeconds = new(int64(60))
	}))
	check(t, map[string]planCase{
		"fine":                     {pod, seen(ready, running("a"), probed("a-0", Probes{Liveness: Success, Startup: Success})), nil},
		"liveness, with own grace": {pod, seen(ready, running("a"), probed("a-0", Probes{Liveness: Failure, Startup: Success})), []string{"Kill a-0 5s"}},
		"startup":                  {pod, seen(ready, running("a"), probed("a-0", Probes{Startup: Failure})), []string{"Kill a-0 60s"}},
		"readiness kills nobody":   {pod, seen(ready, running("a"), probed("a-0", Probes{Readiness: Failure, Startup: Success})), nil},
		"kill under way":           {pod, seen(ready, running("a"), probed("a-0", Probes{Liveness: Failure}), flying(Kill, "a-0", InFlight{Grace: 5})), nil},
		"postStart failed":         {pod, seen(ready, running("a"), with(func(o *Observed) { o.Doomed["a-0"] = "FailedPostStartHook" })), []string{"Kill a-0 60s"}},
		"resize":                   {pod, seen(ready, running("a"), with(func(o *Observed) { o.Resize = true })), []string{"Resize "}},
	})
}

func TestTerminate(t *testing.T) {
	stop := func(grace *int64) func(*world) {
		return with(func(o *Observed) { o.Stop = &Stop{Reason: "Evicted", Grace: grace} })
	}
	late := edit(func(p *corev1.Pod) {
		p.Spec.ActiveDeadlineSeconds, p.Status.StartTime = new(int64(10)), &metav1.Time{Time: now.Add(-10 * time.Second)}
	})
	soon := edit(func(p *corev1.Pod) {
		p.Spec.ActiveDeadlineSeconds, p.Status.StartTime = new(int64(10)), &metav1.Time{Time: now.Add(-7 * time.Second)}
	})
	check(t, map[string]planCase{
		"deleted before anything was done":  {newPod(main("a"), deleted(30)), seen(), []string{"terminating", "done"}},
		"deleted while the sandbox is made": {newPod(main("a"), deleted(30)), seen(flying(CreateSandbox, "")), []string{"terminating"}},
		"deleted while a container starts":  {newPod(main("a"), deleted(30)), seen(ready, flying(Start, "a")), []string{"terminating"}},
		"kill all":                          {newPod(main("a", "b"), deleted(7)), seen(ready, running("a"), running("b")), []string{"Kill a-0 7s", "Kill b-1 7s", "terminating"}},
		"kills under way":                   {newPod(main("a"), deleted(7)), seen(ready, running("a"), flying(Kill, "a-0", InFlight{Grace: 7})), []string{"terminating"}},
		"grace is shortened":                {newPod(main("a"), deleted(0)), seen(ready, running("a"), flying(Kill, "a-0", InFlight{Grace: 7})), []string{"Kill a-0 0s", "terminating"}},
		"then the sandbox":                  {newPod(main("a"), deleted(7)), seen(ready, exited("a", 0)), []string{"StopSandbox s", "terminating"}},
		"then done":                         {newPod(main("a"), deleted(7)), seen(sandbox("s", 0, false), exited("a", 0)), []string{"terminating", "done"}},
		"not done while anything flies":     {newPod(main("a"), deleted(7)), seen(sandbox("s", 0, false), flying(SetUpVolumes, "")), []string{"terminating"}},
		"sidecars wait":                     {newPod(sidecar("s1"), main("a"), deleted(7)), seen(ready, running("a"), running("s1")), []string{"Kill a-0 7s", "Kill s1-1 7s wait", "terminating"}},
		"evicted with its own grace":        {newPod(main("a")), seen(ready, running("a"), stop(nil)), []string{"Kill a-0 30s", "terminating"}},
		"evicted at once":                   {newPod(main("a")), seen(ready, running("a"), stop(new(int64(0)))), []string{"Kill a-0 0s", "terminating"}},
		"deadline passed":                   {newPod(main("a"), late), seen(ready, running("a")), []string{"Kill a-0 30s", "terminating"}},
		"deadline ahead":                    {newPod(main("a"), soon), seen(ready, running("a")), []string{"again in 3s"}},
		"written off in the API":            {newPod(main("a"), edit(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })), seen(ready, running("a")), []string{"Kill a-0 30s", "terminating"}},
		"all succeeded":                     {newPod(policyIs(corev1.RestartPolicyNever), main("a", "b")), seen(ready, exited("a", 0), exited("b", 0)), []string{"StopSandbox s", "terminating"}},
		"ephemeral containers do not delay": {newPod(policyIs(corev1.RestartPolicyNever), main("a")), seen(ready, exited("a", 0), running("debug")), []string{"Kill debug-1 30s", "terminating"}},
		"nothing new is started":            {newPod(main("a", "b"), deleted(7)), seen(ready, images("b"), running("a")), []string{"Kill a-0 7s", "terminating"}},
		"stop of the sandbox backs off":     {newPod(main("a"), deleted(7)), seen(ready, with(func(o *Observed) { o.Setbacks[Key{StopSandbox, "s"}] = Setback{RetryAt: now.Add(time.Second)} })), []string{"again in 1s", "terminating"}},
	})
}

func TestEphemeral(t *testing.T) {
	debug := edit(func(p *corev1.Pod) {
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "d", Image: "i"}}}
	})
	ran := edit(func(p *corev1.Pod) {
		p.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "d", ContainerID: "x"}}
	})
	check(t, map[string]planCase{
		"started":                        {newPod(main("a"), debug), seen(ready, running("a"), images("d")), []string{"Start d #0"}},
		"never restarted":                {newPod(main("a"), debug), seen(ready, running("a"), images("d"), exited("d", 1)), nil},
		"not repeated when forgotten":    {newPod(main("a"), debug, ran), seen(ready, running("a"), images("d")), nil},
		"even while init containers run": {newPod(initc("i"), main("a"), debug), seen(ready, running("i"), images("d")), []string{"Start d #0"}},
	})
}

func TestPhase(t *testing.T) {
	never, onFailure := policyIs(corev1.RestartPolicyNever), policyIs(corev1.RestartPolicyOnFailure)
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		seen Observed
		want corev1.PodPhase
	}{
		"nothing yet":                     {newPod(main("a")), seen(), corev1.PodPending},
		"one waits":                       {newPod(main("a", "b")), seen(ready, running("a")), corev1.PodPending},
		"all run":                         {newPod(main("a")), seen(ready, running("a")), corev1.PodRunning},
		"postStart has not returned":      {newPod(main("a")), seen(ready, running("a"), flying(Start, "a")), corev1.PodPending},
		"crash looping is running":        {newPod(main("a")), seen(ready, exited("a", 1)), corev1.PodRunning},
		"succeeded":                       {newPod(never, main("a", "b")), seen(ready, exited("a", 0), exited("b", 0)), corev1.PodSucceeded},
		"one failed":                      {newPod(never, main("a", "b")), seen(ready, exited("a", 0), exited("b", 3)), corev1.PodFailed},
		"one failed, one runs":            {newPod(never, main("a", "b")), seen(ready, exited("a", 1), running("b")), corev1.PodRunning},
		"on failure, to be restarted":     {newPod(onFailure, main("a")), seen(ready, exited("a", 1)), corev1.PodRunning},
		"on failure, succeeded":           {newPod(onFailure, main("a")), seen(ready, exited("a", 0)), corev1.PodSucceeded},
		"init runs":                       {newPod(initc("i"), main("a")), seen(ready, running("i")), corev1.PodPending},
		"init failed":                     {newPod(never, initc("i"), main("a")), seen(ready, exited("i", 1)), corev1.PodFailed},
		"init to be restarted":            {newPod(onFailure, initc("i"), main("a")), seen(ready, exited("i", 1)), corev1.PodPending},
		"sidecar alone":                   {newPod(sidecar("s"), main("a")), seen(ready, running("s")), corev1.PodPending},
		"sidecar outlives the containers": {newPod(never, sidecar("s"), main("a")), seen(ready, running("s"), exited("a", 0)), corev1.PodSucceeded},
		"sidecar failed for a moment":     {newPod(sidecar("s"), main("a")), seen(ready, exited("s", 1), running("a")), corev1.PodRunning},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Phase(c.pod, c.seen); got != c.want {
				t.Errorf("phase %s, want %s", got, c.want)
			}
		})
	}
}
