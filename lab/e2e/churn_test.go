//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/internal/podstate"
	"keelson.dev/lab/e2e/script"
	"keelson.dev/lab/images"
)

var (
	leakPods = flag.Int("leak.pods", 15, "how many pods come and go in TestNothingLeaks; for 15 of them, the agent is killed once at each step")
	seed     = flag.Uint64("seed", 1, "of what TestNothingLeaks and TestAgentKilledAtEachStep leave to chance")
)

// stage is a node and a namespace whose pods are all bound to it.
type stage struct {
	*testing.T

	node, namespace string
	client          kubernetes.Interface
	before          map[string]bool // what pods had on the node before the test
}

func newStage(t *testing.T, node string) *stage {
	t.Helper()
	s := &stage{T: t, node: node, client: clientset(t)}
	must(t, kubectl("cordon", node)) // for others; these pods are bound as they are
	t.Cleanup(func() { _ = kubectl("uncordon", node) })
	s.before = map[string]bool{}
	for _, line := range s.leftovers() {
		s.before[line] = true
	}
	s.namespace = newNamespace(t)
	for _, kind := range []string{"configmap", "secret generic"} {
		must(t, kubectl(append(append([]string{"create"}, strings.Fields(kind)...), "some", "-n", s.namespace, "--from-literal=key=value")...))
	}
	return s
}

func (s *stage) leftovers() []string {
	s.Helper()
	out, err := command("node", "exec", s.node, "--", "/bin/sh", "-c", script.Leftovers).Output()
	must(s.T, err)
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
}

// mustBeEmpty waits until all pods are gone, and with them everything that they had. What containerd has lost it keeps for five minutes.
func (s *stage) mustBeEmpty() {
	s.Helper()
	s.gone()
	waitFor(s.T, 8*time.Minute, func() error {
		left := slices.DeleteFunc(s.leftovers(), func(line string) bool { return s.before[line] })
		if len(left) > 0 {
			return fmt.Errorf("pods have left on the node:\n%s", strings.Join(left, "\n"))
		}
		return nil
	})
}

func (s *stage) gone() {
	s.Helper()
	waitFor(s.T, 3*time.Minute, func() error {
		list, err := s.client.CoreV1().Pods(s.namespace).List(s.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) > 0 {
			return fmt.Errorf("%d pods are still there (%w)", len(list.Items), err)
		}
		return nil
	})
}

// create makes a pod on the node. The API server may not know the namespace's account yet.
func (s *stage) create(pod *corev1.Pod) {
	s.Helper()
	pod.Spec.NodeName = s.node
	waitFor(s.T, time.Minute, func() error {
		_, err := s.client.CoreV1().Pods(s.namespace).Create(s.Context(), pod, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

// shell is a pod of one container that runs a script.
func shell(name, text string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(2)),
		Containers:                    []corev1.Container{{Name: "main", Image: images.Toolbox, Command: []string{"sh", "-c", text}}},
	}}
}

// asLongAs ends when it is told to, which a shell that is process 1 does only for a trap.
const asLongAs = "trap exit TERM; while :; do sleep 600 & wait; done"

// kinds of pods, each with something that could be left behind. Port is free on the node.
var kinds = []func(name string, port int32) *corev1.Pod{
	func(name string, _ int32) *corev1.Pod { return shell(name, asLongAs) },
	func(name string, _ int32) *corev1.Pod { // volumes
		p := shell(name, "echo some >/memory/file; "+asLongAs)
		p.Spec.Volumes = []corev1.Volume{
			{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "some"}}}},
			{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "some"}}},
		}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
			{Name: "memory", MountPath: "/memory", SubPath: "sub"}, {Name: "config", MountPath: "/config/key", SubPath: "key"}, {Name: "secret", MountPath: "/secret"},
		}
		return p
	},
	func(name string, _ int32) *corev1.Pod { // comes to its end
		p := shell(name, "exit 0")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.InitContainers = []corev1.Container{{Name: "first", Image: images.Toolbox, Command: []string{"true"}}}
		return p
	},
	func(name string, _ int32) *corev1.Pod { // cannot start
		p := shell(name, asLongAs)
		p.Spec.Containers[0].Image = "registry.keelson.dev/nothing:1"
		return p
	},
	func(name string, _ int32) *corev1.Pod { return shell(name, "exit 1") },
	func(name string, port int32) *corev1.Pod { // a port of the node, and a sidecar
		p := shell(name, asLongAs)
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: port}}
		p.Spec.InitContainers = []corev1.Container{{
			Name: "beside", Image: images.Toolbox, Command: []string{"sh", "-c", asLongAs}, RestartPolicy: new(corev1.ContainerRestartPolicyAlways),
		}}
		return p
	},
	func(name string, _ int32) *corev1.Pod { // does not want to go
		p := shell(name, "trap '' TERM; while :; do sleep 600; done")
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 1}}}
		return p
	},
	func(name string, _ int32) *corev1.Pod { // the node's network
		p := shell(name, asLongAs)
		p.Spec.HostNetwork = true
		return p
	},
	func(name string, _ int32) *corev1.Pod { // user IDs of its own, and a probe that kills it
		p := shell(name, asLongAs)
		p.Spec.HostUsers = new(false)
		p.Spec.Containers[0].LivenessProbe = &corev1.Probe{
			ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(9)}}, PeriodSeconds: 1, FailureThreshold: 1,
		}
		return p
	},
}

// settled is nil when a pod has come as far as it can.
func settled(p *corev1.Pod) error {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || podstate.Ready(p) {
		return nil
	}
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && (w.Reason == "ImagePullBackOff" || w.Reason == "CrashLoopBackOff") {
			return nil
		}
	}
	return fmt.Errorf("%s is %+v", p.Name, p.Status)
}

// atOnce is how many pods come and go together.
const atOnce = 15

// TestNothingLeaks has pods of all kinds come and go, while containers, agents and containerd are killed, and looks for what is left.
func TestNothingLeaks(t *testing.T) {
	s := newStage(t, "worker-1")
	random := rand.New(rand.NewPCG(*seed, 0))
	t.Logf("seed %d", *seed)
	strike := func(text string, within time.Duration) {
		time.Sleep(time.Duration(random.Int64N(int64(within))))                      // to strike whatever is under way
		waitFor(t, 30*time.Second, func() error { return killInNode(s.node, text) }) // it may just be started again
	}
	for made := 0; made < *leakPods; {
		for i := range min(atOnce, *leakPods-made) {
			s.create(kinds[made%len(kinds)](fmt.Sprintf("pod-%d", made), int32(20000+i)))
			made++
		}
		strike("keelson agent", 2*time.Second)
		if random.IntN(3) == 0 {
			strike("/containerd --config", time.Second)
		}
		waitFor(t, 3*time.Minute, func() error {
			list, err := s.client.CoreV1().Pods(s.namespace).List(t.Context(), metav1.ListOptions{})
			for i := range list.Items {
				if err == nil {
					err = settled(&list.Items[i])
				}
			}
			return err
		})
		_ = killInNode(s.node, "while :; do sleep 600") // some container, if there is one
		ending := []string{"--grace-period=0 --force", "--grace-period=1", "--grace-period=2", ""}[random.IntN(4)]
		must(t, kubectl(append([]string{"delete", "pods", "-n", s.namespace, "--all", "--wait=false"}, strings.Fields(ending)...)...))
		strike("keelson agent", 2*time.Second)
		s.gone()
		t.Logf("%d pods, the last deleted with %q", made, ending)
	}
	s.mustBeEmpty()
	t.Logf("figures: %d pods have come and gone, and left nothing", *leakPods)
}

// TestAgentKilledAtEachStep kills the agent at each step of a pod's life. The next one goes on: every pod runs, its program is started
// once, and what is deleted goes.
func TestAgentKilledAtEachStep(t *testing.T) {
	s := newStage(t, "worker-1")
	random := rand.New(rand.NewPCG(*seed, 1))
	t.Logf("seed %d", *seed)
	for round := range max(1, *leakPods/atOnce) {
		for _, step := range []struct {
			name    string
			ending  bool // the pod is deleted once it runs
			reached func(p *corev1.Pod) error
		}{
			{name: "sandbox", reached: s.hasCgroup},
			{name: "pull", reached: s.toldOf("Pulling")},
			{name: "create", reached: s.toldOf("Created")},
			{name: "start", reached: s.toldOf("Started")},
			{name: "probe", reached: s.isReady},
			{name: "stop", ending: true, reached: s.toldOf("Killing")},
			{name: "remove", ending: true, reached: s.hasEnded},
		} {
			t.Run(fmt.Sprintf("%s-%d", step.name, round), func(t *testing.T) {
				s := *s
				s.T = t
				pod := recorder(fmt.Sprintf("%s-%d", step.name, round), s.namespace)
				s.create(pod)
				if step.ending {
					s.soon(pod, s.isReady)
					must(t, kubectl("delete", "pod", "-n", s.namespace, pod.Name, "--wait=false"))
				}
				s.soon(pod, step.reached)
				time.Sleep(time.Duration(random.Int64N(int64(30 * time.Millisecond)))) // into the step
				must(t, killInNode(s.node, "keelson agent"))
				if !step.ending {
					s.soon(pod, s.isReady)
					must(t, kubectl("delete", "pod", "-n", s.namespace, pod.Name, "--wait=false"))
				}
				s.gone()
				out, err := command("node", "exec", s.node, "--", "cat", records+"/"+s.namespace+"/"+pod.Name).Output()
				must(t, err)
				if text := string(out); strings.Count(text, "start\n") != 1 || !strings.Contains(text, "stop\n") {
					t.Errorf("the program has recorded %q, not one start and a stop", text)
				}
			})
		}
	}
	s.mustBeEmpty()
}

// records is a folder of the node in which programs write down what happens to them.
const records = "/var/lib/e2e-records"

func recorder(name, namespace string) *corev1.Pod {
	p := shell(name, fmt.Sprintf("echo start >>/records/%s; PORT=8080 exec demo", name))
	p.Spec.TerminationGracePeriodSeconds = new(int64(5))
	p.Spec.Volumes = []corev1.Volume{{Name: "records", VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: filepath.Join(records, namespace), Type: new(corev1.HostPathDirectoryOrCreate)},
	}}}
	c := &p.Spec.Containers[0]
	c.ImagePullPolicy = corev1.PullAlways
	c.VolumeMounts = []corev1.VolumeMount{{Name: "records", MountPath: "/records"}}
	c.ReadinessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1,
	}
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", fmt.Sprintf("echo stop >>/records/%s; sleep 1", name)}}}}
	return p
}

// soon waits for a step of a pod's life, and looks often, as it is over soon.
func (s *stage) soon(pod *corev1.Pod, reached func(*corev1.Pod) error) {
	s.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		now, err := s.client.CoreV1().Pods(s.namespace).Get(s.Context(), pod.Name, metav1.GetOptions{})
		if err == nil {
			err = reached(now)
		}
		if err == nil || apierrors.IsNotFound(err) { // it was over before it was seen
			return
		}
		if time.Now().After(deadline) {
			s.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *stage) isReady(p *corev1.Pod) error {
	if !podstate.Ready(p) {
		return fmt.Errorf("not ready: %+v", p.Status)
	}
	return nil
}

// hasCgroup is the first trace of a pod on its node.
func (s *stage) hasCgroup(p *corev1.Pod) error {
	for _, root := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(root, "keelson", *clusterName, s.node, "kubepods", "besteffort", "pod"+string(p.UID))); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s has no control group", p.Name)
}

func (s *stage) toldOf(reason string) func(*corev1.Pod) error {
	return func(p *corev1.Pod) error {
		list, err := s.client.CoreV1().Events(s.namespace).List(s.Context(), metav1.ListOptions{FieldSelector: "reason=" + reason + ",involvedObject.name=" + p.Name})
		if err == nil && len(list.Items) == 0 {
			err = fmt.Errorf("no event %s of %s", reason, p.Name)
		}
		return err
	}
}

func (s *stage) hasEnded(p *corev1.Pod) error {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Terminated != nil {
			return nil
		}
	}
	return fmt.Errorf("the container runs: %+v", p.Status)
}
