// Package contract is the test that every container runtime behind kubelet-lite passes, the real one and the one that only pretends:
// what the pod workers rely on.
package contract

import (
	"context"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/cri"
)

// Subject is a runtime to test.
type Subject struct {
	Client *cri.Client
	// Image is one that can be pulled, and Command a program of it that runs until it is told to stop.
	Image   string
	Command []string
	LogDir  string // writable by the runtime
}

// timeout bounds each wait for something that a runtime does in its own time.
const timeout = 30 * time.Second

// Test runs the contract as subtests. What it makes, it removes.
func Test(t *testing.T, s Subject) {
	t.Run("Image", s.image)
	t.Run("Unknown", s.unknown)
	t.Run("PodLife", s.podLife)
	t.Run("StopSandbox", s.stopSandbox)
	t.Run("RemoveSandbox", s.removeSandbox)
	t.Run("Events", s.events)
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s Subject) image(t *testing.T) {
	ctx, images, spec := t.Context(), s.Client.Images, &runtimeapi.ImageSpec{Image: s.Image}
	absent := must(images.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: "contract.invalid/none:1"}, false))(t)
	if absent.Image != nil {
		t.Errorf("an image that was never pulled is there: %v", absent.Image)
	}
	if _, err := images.PullImage(ctx, &runtimeapi.ImageSpec{Image: "contract.invalid/none:1"}, nil, nil); err == nil {
		t.Error("an image of a registry that does not exist was pulled")
	}
	id := must(images.PullImage(ctx, spec, nil, nil))(t)
	have := must(images.ImageStatus(ctx, spec, false))(t).Image
	if have == nil || have.Id == "" || have.Size == 0 {
		t.Fatalf("pulled image: %v", have)
	}
	byID := must(images.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: have.Id}, false))(t).Image
	if byID == nil || byID.Id != have.Id {
		t.Errorf("pull returned %s; by ID: %v, by name: %v", id, byID, have)
	}
	for _, listed := range must(images.ListImages(ctx, nil))(t) {
		if listed.Id == have.Id {
			return
		}
	}
	t.Error("the pulled image is not in the list")
}

// unknown asks about what does not exist: a status is NotFound, and to remove it is no error.
func (s Subject) unknown(t *testing.T) {
	ctx, r, id := t.Context(), s.Client.Runtime, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	if _, err := r.PodSandboxStatus(ctx, id, false); !cri.IsNotFound(err) {
		t.Errorf("status of an unknown sandbox: %v", err)
	}
	if _, err := r.ContainerStatus(ctx, id, false); !cri.IsNotFound(err) {
		t.Errorf("status of an unknown container: %v", err)
	}
	if _, err := r.CreateContainer(ctx, id, s.container("c"), sandboxConfig(t, s.LogDir)); err == nil {
		t.Error("a container was created in an unknown sandbox")
	}
	if err := r.StartContainer(ctx, id); err == nil {
		t.Error("an unknown container was started")
	}
	for what, err := range map[string]error{
		"stop sandbox": ignoreGone(r.StopPodSandbox(ctx, id)), "stop container": ignoreGone(r.StopContainer(ctx, id, 1)),
		"remove sandbox": r.RemovePodSandbox(ctx, id), "remove container": r.RemoveContainer(ctx, id),
	} {
		if err != nil {
			t.Errorf("%s that does not exist: %v", what, err)
		}
	}
}

func ignoreGone(err error) error {
	if cri.IsNotFound(err) {
		return nil
	}
	return err
}

func sandboxConfig(t *testing.T, logDir string) *runtimeapi.PodSandboxConfig {
	uid := "contract-" + t.Name()
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "contract", Namespace: "contract", Uid: uid},
		Labels: map[string]string{
			kubelettypes.KubernetesPodUIDLabel: uid, kubelettypes.KubernetesPodNameLabel: "contract", kubelettypes.KubernetesPodNamespaceLabel: "contract",
		},
		Annotations: map[string]string{"example.com/a": "b"}, LogDirectory: logDir, Hostname: "contract",
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}
}

func (s Subject) container(name string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name, Attempt: 1}, Image: &runtimeapi.ImageSpec{Image: s.Image}, Command: s.Command,
		Labels:      map[string]string{kubelettypes.KubernetesContainerNameLabel: name, kubelettypes.KubernetesPodUIDLabel: ""},
		Annotations: map[string]string{"io.kubernetes.container.restartCount": "1"}, LogPath: name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}
}

// pod runs a sandbox with one running container, and removes both when the test ends.
func (s Subject) pod(t *testing.T) (uid types.UID, sandbox, container string) {
	t.Helper()
	ctx, r, config := t.Context(), s.Client.Runtime, sandboxConfig(t, s.LogDir)
	sandbox = must(r.RunPodSandbox(ctx, config, ""))(t)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		_ = ignoreGone(r.StopPodSandbox(ctx, sandbox)) // a test may have done so
		if err := r.RemovePodSandbox(ctx, sandbox); err != nil {
			t.Error(err)
		}
	})
	c := s.container("c")
	c.Labels[kubelettypes.KubernetesPodUIDLabel] = config.Metadata.Uid
	must(s.Client.Images.PullImage(ctx, c.Image, nil, nil))(t)
	container = must(r.CreateContainer(ctx, sandbox, c, config))(t)
	if got := must(r.ContainerStatus(ctx, container, false))(t).Status; got.State != runtimeapi.ContainerState_CONTAINER_CREATED || got.StartedAt != 0 {
		t.Errorf("a created container: %v", got)
	}
	try(t, r.StartContainer(ctx, container))
	return types.UID(config.Metadata.Uid), sandbox, container
}

func (s Subject) podLife(t *testing.T) {
	ctx, r := t.Context(), s.Client.Runtime
	uid, sandbox, container := s.pod(t)
	pod := must(s.Client.Pod(ctx, uid))(t)
	box, c := pod.Sandbox(), pod.Container("c")
	switch {
	case box == nil || c == nil:
		t.Fatalf("the pod is not listed by its UID: %+v", pod)
	case !box.Ready || len(box.IPs) != 1 || box.ID != sandbox:
		t.Errorf("sandbox: %+v", box)
	case c.State != cri.Running || c.ID != container || c.StartedAt.IsZero() || c.RestartCount != 1 || c.SandboxID != sandbox || c.ImageRef == "":
		t.Errorf("running container: %+v", c)
	}
	if err := r.StartContainer(ctx, container); err == nil {
		t.Error("a running container was started again")
	}
	try(t, r.StopContainer(ctx, container, 5))
	try(t, r.StopContainer(ctx, container, 5)) // and again: what has stopped stays so
	if c = must(s.Client.Pod(ctx, uid))(t).Container("c"); c.State != cri.Exited || c.FinishedAt.Before(c.StartedAt) || c.Reason == "" {
		t.Errorf("stopped container: %+v", c)
	}
	if _, _, err := r.ExecSync(ctx, container, []string{"true"}, time.Second); err == nil {
		t.Error("a command ran in a container that has stopped")
	}
	try(t, r.RemoveContainer(ctx, container))
	if pod = must(s.Client.Pod(ctx, uid))(t); pod.Container("c") != nil || pod.Sandbox() == nil {
		t.Errorf("after the container was removed: %+v", pod)
	}
}

// stopSandbox ends what runs inside and keeps it to look at.
func (s Subject) stopSandbox(t *testing.T) {
	ctx, r := t.Context(), s.Client.Runtime
	uid, sandbox, container := s.pod(t)
	try(t, r.StopPodSandbox(ctx, sandbox))
	try(t, r.StopPodSandbox(ctx, sandbox))
	pod := must(s.Client.Pod(ctx, uid))(t)
	if box := pod.Sandbox(); box == nil || box.Ready || len(box.IPs) != 0 {
		t.Errorf("stopped sandbox: %+v", box)
	}
	if c := pod.Container("c"); c == nil || c.State != cri.Exited || c.ID != container {
		t.Errorf("container of a stopped sandbox: %+v", c)
	}
	config := sandboxConfig(t, s.LogDir)
	if id, err := r.CreateContainer(ctx, sandbox, s.container("late"), config); err == nil {
		if err := r.StartContainer(ctx, id); err == nil {
			t.Error("a container runs in a stopped sandbox")
		}
	}
}

func (s Subject) removeSandbox(t *testing.T) {
	ctx, r := t.Context(), s.Client.Runtime
	uid, sandbox, _ := s.pod(t)
	try(t, r.StopPodSandbox(ctx, sandbox))
	try(t, r.RemovePodSandbox(ctx, sandbox))
	if pod := must(s.Client.Pod(ctx, uid))(t); len(pod.Sandboxes)+len(pod.Containers) != 0 {
		t.Errorf("after the sandbox was removed: %+v", pod)
	}
}

// events are told, with the pod's UID.
func (s Subject) events(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var (
		following sync.WaitGroup
		ready     = make(chan struct{}, 1)
		changed   = make(chan types.UID, 64) // more than this test causes
	)
	following.Go(func() {
		s.Client.Follow(ctx, clock.RealClock{}, func(uid types.UID) {
			select {
			case changed <- uid:
			default: // another pod's
			}
		}, func() {
			select {
			case ready <- struct{}{}:
			default:
			}
		})
	})
	defer following.Wait()
	defer cancel()
	wait := func(uid types.UID) {
		t.Helper()
		for {
			select {
			case got := <-changed:
				if got == uid {
					return
				}
			case <-time.After(timeout):
				t.Fatal("no event of the pod")
			}
		}
	}
	select {
	case <-ready:
	case <-time.After(timeout):
		t.Fatal("no event stream")
	}
	uid, _, container := s.pod(t)
	wait(uid)
	try(t, s.Client.Runtime.StopContainer(ctx, container, 5))
	for {
		wait(uid)
		if must(s.Client.Pod(ctx, uid))(t).Container("c").State == cri.Exited {
			return
		}
	}
}
