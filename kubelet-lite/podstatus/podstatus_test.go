package podstatus

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/podplan"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// scene is an input under construction: a pod "p" with container "c" in sandbox "s".
type scene func(*Input)

func input(scenes ...scene) Input {
	in := Input{
		Pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Generation: 3},
			Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		},
		Observed: podplan.Observed{
			Pod: &cri.Pod{UID: "u", Sandboxes: []*cri.Sandbox{{ID: "s", Ready: true, IPs: []string{"10.0.0.1", "fd00::1"}}}}, HostIPs: []string{"192.0.2.1"},
			Images: map[string]podplan.Image{}, Setbacks: map[podplan.Key]podplan.Setback{}, InFlight: map[podplan.Key]podplan.InFlight{},
			Probes: map[string]podplan.Probes{}, Messages: map[string]string{},
		},
		Now: now, IDPrefix: "containerd://",
	}
	for _, s := range scenes {
		s(&in)
	}
	return in
}

func instance(name string, state cri.State, exit int32, more ...func(*cri.Container)) scene {
	return func(in *Input) {
		c := &cri.Container{
			ID: fmt.Sprint(name, len(in.Observed.Pod.Containers)), Name: name, State: state, ExitCode: exit, SandboxID: "s", Image: "i", ImageRef: "i@sha",
			CreatedAt: now.Add(-time.Minute), StartedAt: now.Add(-time.Minute),
		}
		if state == cri.Exited {
			c.FinishedAt = now.Add(-time.Second)
		}
		for _, m := range more {
			m(c)
		}
		in.Observed.Pod.Containers = append(in.Observed.Pod.Containers, c)
	}
}

func spec(f func(*corev1.PodSpec)) scene       { return func(in *Input) { f(&in.Pod.Spec) } }
func observed(f func(*podplan.Observed)) scene { return func(in *Input) { f(&in.Observed) } }
func old(f func(*corev1.PodStatus)) scene      { return func(in *Input) { f(&in.Pod.Status) } }
func done(in *Input)                           { in.Plan.Terminating, in.Plan.Done = true, true }
func terminating(in *Input)                    { in.Plan.Terminating = true }
func never(in *Input)                          { in.Pod.Spec.RestartPolicy = corev1.RestartPolicyNever }
func noSandbox(in *Input)                      { in.Observed.Pod.Sandboxes = nil }

func initContainer(sidecar bool) scene {
	return spec(func(s *corev1.PodSpec) {
		c := corev1.Container{Name: "i", Image: "i"}
		if sidecar {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		}
		s.InitContainers = append(s.InitContainers, c)
	})
}

// brief writes a container's status in one line.
func brief(s corev1.ContainerStatus) string {
	state := func(s corev1.ContainerState) string {
		switch {
		case s.Waiting != nil && s.Waiting.Message != "":
			return fmt.Sprintf("%s(%s)", s.Waiting.Reason, s.Waiting.Message)
		case s.Waiting != nil:
			return s.Waiting.Reason
		case s.Running != nil:
			return "Running"
		case s.Terminated != nil && s.Terminated.Message != "":
			return fmt.Sprintf("%s:%d(%s)", s.Terminated.Reason, s.Terminated.ExitCode, s.Terminated.Message)
		case s.Terminated != nil:
			return fmt.Sprintf("%s:%d", s.Terminated.Reason, s.Terminated.ExitCode)
		}
		return "-"
	}
	out := fmt.Sprintf("%s %s last=%s #%d", s.Name, state(s.State), state(s.LastTerminationState), s.RestartCount)
	if s.Started != nil && *s.Started {
		out += " started"
	}
	if s.Ready {
		out += " ready"
	}
	return out
}

func TestContainers(t *testing.T) {
	starting := observed(func(o *podplan.Observed) {
		o.InFlight[podplan.Key{Kind: podplan.Start, Target: "c"}] = podplan.InFlight{}
	})
	backOff := func(c *cri.Container) { c.BackOff, c.RestartCount = 40*time.Second, 3 }
	image := func(reason, message string) scene {
		return observed(func(o *podplan.Observed) {
			o.Images["c"] = podplan.Image{Name: "i", Reason: reason, Message: message}
		})
	}
	setback := func(reason, message string) scene {
		return observed(func(o *podplan.Observed) {
			o.Setbacks[podplan.Key{Kind: podplan.Start, Target: "c"}] = podplan.Setback{Reason: reason, Message: message}
		})
	}
	readiness := spec(func(s *corev1.PodSpec) { s.Containers[0].ReadinessProbe = &corev1.Probe{} })
	startup := spec(func(s *corev1.PodSpec) { s.Containers[0].StartupProbe = &corev1.Probe{} })
	probed := func(p podplan.Probes) scene {
		return observed(func(o *podplan.Observed) { o.Probes["c0"] = p })
	}
	for name, c := range map[string]struct {
		in   Input
		want string
	}{
		"not begun":                   {input(noSandbox), "c ContainerCreating last=- #0"},
		"waits for init":              {input(initContainer(false)), "c PodInitializing last=- #0"},
		"pull failed":                 {input(image("ErrImagePull", "no such host")), "c ErrImagePull(no such host) last=- #0"},
		"pull backs off":              {input(image("ImagePullBackOff", "Back-off pulling")), "c ImagePullBackOff(Back-off pulling) last=- #0"},
		"config error":                {input(setback("CreateContainerConfigError", `configmap "x" not found`)), `c CreateContainerConfigError(configmap "x" not found) last=- #0`},
		"a setback without a reason":  {input(setback("", "API down")), "c ContainerCreating last=- #0"},
		"made":                        {input(instance("c", cri.Created, 0)), "c ContainerCreating last=- #0"},
		"runs":                        {input(instance("c", cri.Running, 0)), "c Running last=- #0 started ready"},
		"postStart runs":              {input(instance("c", cri.Running, 0), starting), "c ContainerCreating last=- #0"},
		"not ready yet":               {input(instance("c", cri.Running, 0), readiness), "c Running last=- #0 started"},
		"readiness failed":            {input(instance("c", cri.Running, 0), readiness, probed(podplan.Probes{Readiness: podplan.Failure})), "c Running last=- #0 started"},
		"readiness passed":            {input(instance("c", cri.Running, 0), readiness, probed(podplan.Probes{Readiness: podplan.Success})), "c Running last=- #0 started ready"},
		"not started yet":             {input(instance("c", cri.Running, 0), startup), "c Running last=- #0"},
		"started":                     {input(instance("c", cri.Running, 0), startup, probed(podplan.Probes{Startup: podplan.Success})), "c Running last=- #0 started ready"},
		"exited, about to restart":    {input(instance("c", cri.Exited, 2)), "c Error:2 last=- #0"},
		"crash loop":                  {input(instance("c", cri.Exited, 2, backOff)), "c CrashLoopBackOff(back-off 40s restarting failed container=c pod=p_ns(u)) last=Error:2 #3"},
		"being restarted":             {input(instance("c", cri.Exited, 2, backOff), starting), "c Error:2 last=- #3"},
		"its successor is being made": {input(instance("c", cri.Created, 0), instance("c", cri.Exited, 2, backOff), starting), "c Error:2 last=- #3"},
		"and it had one before":       {input(instance("c", cri.Created, 0), instance("c", cri.Exited, 2, backOff), instance("c", cri.Exited, 3), starting), "c Error:2 last=Error:3 #3"},
		"runs again":                  {input(instance("c", cri.Running, 0, func(c *cri.Container) { c.RestartCount = 4 }), instance("c", cri.Exited, 2, backOff)), "c Running last=Error:2 #4 started ready"},
		"restart waits for the image": {input(instance("c", cri.Exited, 2), image("ErrImagePull", "gone")), "c ErrImagePull(gone) last=Error:2 #0"},
		"restart fails":               {input(instance("c", cri.Exited, 128, func(c *cri.Container) { c.Reason, c.Message = "StartError", "no such file" }), setback("RunContainerError", "no such file")), "c RunContainerError(no such file) last=StartError:128(no such file) #0"},
		"completed":                   {input(never, instance("c", cri.Exited, 0)), "c Completed:0 last=- #0"},
		"out of memory":               {input(never, instance("c", cri.Exited, 137, func(c *cri.Container) { c.Reason = "OOMKilled" })), "c OOMKilled:137 last=- #0"},
		"termination message":         {input(never, instance("c", cri.Exited, 1), observed(func(o *podplan.Observed) { o.Messages["c0"] = "bye" })), "c Error:1(bye) last=- #0"},
		"stopped while it backed off": {input(terminating, instance("c", cri.Exited, 2, backOff)), "c Error:2 last=- #3"},
		"stopped before it began":     {input(done), "c ContainerStatusUnknown:137(The container could not be located when the pod was terminated) last=- #0"},
		"made, then the pod stopped":  {input(done, instance("c", cri.Created, 0)), "c ContainerStatusUnknown:137(The container could not be located when the pod was terminated) last=- #0"},
		"the runtime forgot what ran": {input(old(func(s *corev1.PodStatus) {
			s.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", ContainerID: "x", RestartCount: 2, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		})), "c ContainerCreating last=ContainerStatusUnknown:137(The container could not be located when the pod was deleted.  The container used to be Running) #2"},
		"a terminal pod is not ready": {input(never, instance("c", cri.Running, 0), old(func(s *corev1.PodStatus) { s.Phase = corev1.PodFailed })), "c Running last=- #0 started"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, brief(For(c.in).ContainerStatuses[0])); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInitContainers(t *testing.T) {
	for name, c := range map[string]struct {
		in   Input
		want string
	}{
		"first to run":              {input(initContainer(false)), "i PodInitializing last=- #0"},
		"runs":                      {input(initContainer(false), instance("i", cri.Running, 0)), "i Running last=- #0 started"},
		"succeeded":                 {input(initContainer(false), instance("i", cri.Exited, 0)), "i Completed:0 last=- #0 ready"},
		"succeeded, pod over":       {input(never, done, initContainer(false), instance("c", cri.Exited, 0), instance("i", cri.Exited, 0)), "i Completed:0 last=- #0 ready"},
		"failed":                    {input(never, initContainer(false), instance("i", cri.Exited, 1)), "i Error:1 last=- #0"},
		"failed, backs off":         {input(initContainer(false), instance("i", cri.Exited, 1, func(c *cri.Container) { c.BackOff = 10 * time.Second })), "i CrashLoopBackOff(back-off 10s restarting failed container=i pod=p_ns(u)) last=Error:1 #0"},
		"sidecar runs":              {input(initContainer(true), instance("i", cri.Running, 0)), "i Running last=- #0 started ready"},
		"sidecar over with the pod": {input(never, done, initContainer(true), instance("c", cri.Exited, 0), instance("i", cri.Exited, 0)), "i Completed:0 last=- #0"},
		"forgotten after the pod ran": {input(initContainer(false), instance("c", cri.Running, 0), old(func(s *corev1.PodStatus) {
			s.InitContainerStatuses = []corev1.ContainerStatus{{Name: "i", ContainerID: "x", Ready: true, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}}}
		})), "i Completed:0 last=- #0 ready"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, brief(For(c.in).InitContainerStatuses[0])); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	write := func(list []corev1.PodCondition) []string {
		var out []string
		for _, c := range list {
			line := fmt.Sprintf("%s=%s", c.Type, c.Status)
			if c.Reason != "" {
				line += " " + c.Reason
			}
			if c.Message != "" {
				line += ": " + c.Message
			}
			out = append(out, line)
		}
		return out
	}
	gate := spec(func(s *corev1.PodSpec) { s.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "x/y"}} })
	runs := instance("c", cri.Running, 0)
	for name, c := range map[string]struct {
		in   Input
		want []string
	}{
		"new": {input(noSandbox, initContainer(false)), []string{
			"PodReadyToStartContainers=False", "Initialized=False ContainersNotInitialized: containers with incomplete status: [i]",
			"Ready=False ContainersNotReady: containers with unready status: [c]", "ContainersReady=False ContainersNotReady: containers with unready status: [c]", "PodScheduled=True",
		}},
		"init container runs": {input(initContainer(false), instance("i", cri.Running, 0)), []string{
			"PodReadyToStartContainers=True", "Initialized=False ContainersNotInitialized: containers with incomplete status: [i]",
			"Ready=False ContainersNotReady: containers with unready status: [c]", "ContainersReady=False ContainersNotReady: containers with unready status: [c]", "PodScheduled=True",
		}},
		"ready": {input(runs), []string{"PodReadyToStartContainers=True", "Initialized=True", "Ready=True", "ContainersReady=True", "PodScheduled=True"}},
		"sidecar not ready": {input(runs, initContainer(true), instance("i", cri.Exited, 1)), []string{
			"PodReadyToStartContainers=True", "Initialized=True", "Ready=False ContainersNotReady: containers with unready status: [i]",
			"ContainersReady=False ContainersNotReady: containers with unready status: [i]", "PodScheduled=True",
		}},
		"gate without condition": {input(runs, gate), []string{
			"PodReadyToStartContainers=True", "Initialized=True",
			`Ready=False ReadinessGatesNotReady: corresponding condition of pod readiness gate "x/y" does not exist.`, "ContainersReady=True", "PodScheduled=True",
		}},
		"gate closed": {input(runs, gate, old(func(s *corev1.PodStatus) { s.Conditions = []corev1.PodCondition{{Type: "x/y", Status: "False"}} })), []string{
			"PodReadyToStartContainers=True", "Initialized=True",
			`Ready=False ReadinessGatesNotReady: the status of pod readiness gate "x/y" is not "True", but False`, "ContainersReady=True", "PodScheduled=True", "x/y=False",
		}},
		"gate open": {input(runs, gate, old(func(s *corev1.PodStatus) { s.Conditions = []corev1.PodCondition{{Type: "x/y", Status: "True"}} })), []string{
			"PodReadyToStartContainers=True", "Initialized=True", "Ready=True", "ContainersReady=True", "PodScheduled=True", "x/y=True",
		}},
		"succeeded": {input(never, done, noSandbox, instance("c", cri.Exited, 0)), []string{
			"PodReadyToStartContainers=False", "Initialized=True PodCompleted", "Ready=False PodCompleted", "ContainersReady=False PodCompleted", "PodScheduled=True",
		}},
		"failed": {input(never, done, instance("c", cri.Exited, 1)), []string{
			"PodReadyToStartContainers=True", "Initialized=True", "Ready=False PodFailed", "ContainersReady=False PodFailed", "PodScheduled=True",
		}},
		"evicted": {input(terminating, runs, observed(func(o *podplan.Observed) {
			o.Stop = &podplan.Stop{Reason: "Evicted", Condition: &corev1.PodCondition{Type: corev1.DisruptionTarget, Status: "True", Reason: "TerminationByKubelet"}}
		})), []string{
			"PodReadyToStartContainers=True", "Initialized=True", "Ready=True", "ContainersReady=True", "PodScheduled=True", "DisruptionTarget=True TerminationByKubelet",
		}},
		"a resize that is over leaves no trace": {input(runs, old(func(s *corev1.PodStatus) {
			s.Conditions = []corev1.PodCondition{{Type: corev1.PodResizeInProgress, Status: "True"}}
		})), []string{
			"PodReadyToStartContainers=True", "Initialized=True", "Ready=True", "ContainersReady=True", "PodScheduled=True",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			status := For(c.in)
			if diff := cmp.Diff(c.want, write(status.Conditions)); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTransitionTimes(t *testing.T) {
	before := metav1.NewTime(now.Add(-time.Hour))
	in := input(instance("c", cri.Running, 0), old(func(s *corev1.PodStatus) {
		s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: "True", LastTransitionTime: before}, {Type: corev1.ContainersReady, Status: "False", LastTransitionTime: before}}
	}))
	for _, c := range For(in).Conditions {
		switch want := now; c.Type {
		case corev1.PodReady:
			if !c.LastTransitionTime.Time.Equal(before.Time) {
				t.Errorf("Ready did not change, but its transition time did: %v", c.LastTransitionTime)
			}
		case corev1.ContainersReady:
			if !c.LastTransitionTime.Time.Equal(want) {
				t.Errorf("ContainersReady changed, but its transition time is %v", c.LastTransitionTime)
			}
		default:
		}
		if c.ObservedGeneration != 3 {
			t.Errorf("%s observed generation %d", c.Type, c.ObservedGeneration)
		}
	}
}

func TestPhaseAndReason(t *testing.T) {
	evicted := observed(func(o *podplan.Observed) { o.Stop = &podplan.Stop{Reason: "Evicted", Message: "low on memory"} })
	late := scene(func(in *Input) {
		in.Pod.Spec.ActiveDeadlineSeconds = new(int64(5))
		in.Pod.Status.StartTime, in.Pod.Status.Phase = &metav1.Time{Time: now.Add(-time.Minute)}, corev1.PodRunning
	})
	was := func(phase corev1.PodPhase) scene { return old(func(s *corev1.PodStatus) { s.Phase = phase }) }
	for name, c := range map[string]struct {
		in   Input
		want string
	}{
		"pending":                            {input(noSandbox), "Pending /"},
		"running":                            {input(instance("c", cri.Running, 0)), "Running /"},
		"over, but something still runs":     {input(never, terminating, was(corev1.PodRunning), instance("c", cri.Exited, 0), instance("x", cri.Running, 0)), "Running /"},
		"succeeded":                          {input(never, done, was(corev1.PodRunning), instance("c", cri.Exited, 0)), "Succeeded /"},
		"failed":                             {input(never, done, was(corev1.PodRunning), instance("c", cri.Exited, 1)), "Failed /"},
		"deleted, still stopping":            {input(terminating, was(corev1.PodRunning), instance("c", cri.Running, 0)), "Running /"},
		"deleted, all ended well":            {input(done, was(corev1.PodRunning), instance("c", cri.Exited, 0)), "Succeeded /"},
		"deleted, one was killed":            {input(done, was(corev1.PodRunning), instance("c", cri.Exited, 137)), "Failed /"},
		"being evicted":                      {input(terminating, evicted, was(corev1.PodRunning), instance("c", cri.Running, 0)), "Running Evicted/low on memory"},
		"evicted":                            {input(done, evicted, was(corev1.PodRunning), instance("c", cri.Exited, 0)), "Failed Evicted/low on memory"},
		"out of time":                        {input(done, late, instance("c", cri.Exited, 0)), "Failed DeadlineExceeded/Pod was active on the node longer than the specified deadline"},
		"what the API calls failed stays so": {input(done, was(corev1.PodFailed), instance("c", cri.Exited, 0)), "Failed /"},
		"a rejected pod keeps what was said": {input(done, noSandbox, old(func(s *corev1.PodStatus) { s.Phase, s.Reason, s.Message = corev1.PodFailed, "OutOfcpu", "no" })), "Failed OutOfcpu/no"},
	} {
		t.Run(name, func(t *testing.T) {
			s := For(c.in)
			if diff := cmp.Diff(c.want, fmt.Sprintf("%s %s/%s", s.Phase, s.Reason, s.Message)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	host := spec(func(s *corev1.PodSpec) { s.HostNetwork = true })
	kept := old(func(s *corev1.PodStatus) { s.PodIP, s.PodIPs = "10.0.0.9", []corev1.PodIP{{IP: "10.0.0.9"}} })
	for name, c := range map[string]struct {
		in   Input
		want string
	}{
		"both families":      {input(), "192.0.2.1 10.0.0.1 [{10.0.0.1} {fd00::1}]"},
		"host network":       {input(host), "192.0.2.1 192.0.2.1 [{192.0.2.1}]"},
		"none yet":           {input(noSandbox), "192.0.2.1  []"},
		"kept after the end": {input(noSandbox, kept), "192.0.2.1 10.0.0.9 [{10.0.0.9}]"},
	} {
		t.Run(name, func(t *testing.T) {
			s := For(c.in)
			if diff := cmp.Diff(c.want, fmt.Sprintf("%s %s %v", s.HostIP, s.PodIP, s.PodIPs)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestResources(t *testing.T) {
	limits := spec(func(s *corev1.PodSpec) {
		s.Containers[0].Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{"cpu": resource.MustParse("101m"), "memory": resource.MustParse("64Mi")},
			Limits:   corev1.ResourceList{"cpu": resource.MustParse("200m"), "memory": resource.MustParse("128Mi")},
		}
	})
	actual := func(shares, quota, memory int64) func(*cri.Container) {
		return func(c *cri.Container) {
			c.Resources = &runtimeapi.LinuxContainerResources{CpuShares: shares, CpuQuota: quota, CpuPeriod: 100000, MemoryLimitInBytes: memory}
		}
	}
	for name, c := range map[string]struct {
		in   Input
		want string
	}{
		"as granted: rounding does not show": {input(limits, instance("c", cri.Running, 0, actual(103, 20000, 128<<20))), "101m/200m 64Mi/128Mi"},
		"a resize is under way":              {input(limits, instance("c", cri.Running, 0, actual(512, 10000, 100<<20))), "500m/100m 64Mi/100Mi"},
		"not running":                        {input(limits, instance("c", cri.Exited, 0, actual(512, 10000, 100<<20))), "101m/200m 64Mi/128Mi"},
		"the runtime does not say":           {input(limits, instance("c", cri.Running, 0)), "101m/200m 64Mi/128Mi"},
	} {
		t.Run(name, func(t *testing.T) {
			s := For(c.in).ContainerStatuses[0]
			got := fmt.Sprintf("%s/%s %s/%s", s.Resources.Requests.Cpu(), s.Resources.Limits.Cpu(), s.Resources.Requests.Memory(), s.Resources.Limits.Memory())
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := s.AllocatedResources.Cpu().String(); got != "101m" {
				t.Errorf("allocated CPU %s", got)
			}
		})
	}
}
