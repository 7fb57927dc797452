package podworker

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"
	criapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/hooks"
	"keelson.dev/kubelet-lite/images"
	"keelson.dev/kubelet-lite/podplan"
	"keelson.dev/kubelet-lite/probes"
	"keelson.dev/kubelet-lite/volumes"
)

// runtime is a container runtime in memory that keeps the CRI's rules: what does not exist is NotFound, a container needs its
// sandbox, and everything that happens is told.
type runtime struct {
	criapi.RuntimeService
	criapi.ImageManagerService

	mu         sync.Mutex
	sandboxes  map[string]*runtimeapi.PodSandboxStatus
	containers map[string]*runtimeapi.ContainerStatus
	inSandbox  map[string]string
	calls      []string
	next       int
	reports    bool // which CPUs a container has now
	changed    func(types.UID)
}

func newRuntime() *runtime {
	return &runtime{sandboxes: map[string]*runtimeapi.PodSandboxStatus{}, containers: map[string]*runtimeapi.ContainerStatus{}, inSandbox: map[string]string{}, changed: func(types.UID) {}}
}

var errNotFound = grpcstatus.Error(codes.NotFound, "not found")

func (r *runtime) call(format string, args ...any) func() {
	r.mu.Lock()
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
	return r.mu.Unlock
}

func (r *runtime) Close(context.Context) error { return nil }

func (r *runtime) RunPodSandbox(_ context.Context, c *runtimeapi.PodSandboxConfig, _ string) (string, error) {
	defer r.call("run sandbox #%d", c.Metadata.Attempt)()
	r.next++
	id := fmt.Sprintf("s%d", r.next)
	r.sandboxes[id] = &runtimeapi.PodSandboxStatus{Id: id, Metadata: c.Metadata, Labels: c.Labels, CreatedAt: time.Now().UnixNano() + int64(r.next), Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.9"}}
	return id, nil
}

func (r *runtime) StopPodSandbox(_ context.Context, id string) error {
	defer r.call("stop sandbox")()
	if r.sandboxes[id] == nil {
		return errNotFound
	}
	r.sandboxes[id].State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	return nil
}

func (r *runtime) RemovePodSandbox(_ context.Context, id string) error {
	defer r.call("remove sandbox")()
	delete(r.sandboxes, id)
	return nil
}

func (r *runtime) ListPodSandbox(context.Context, *runtimeapi.PodSandboxFilter) (out []*runtimeapi.PodSandbox, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sandboxes {
		out = append(out, &runtimeapi.PodSandbox{Id: s.Id, Labels: s.Labels})
	}
	return out, nil
}

func (r *runtime) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sandboxes[id] == nil {
		return nil, errNotFound
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: proto.Clone(r.sandboxes[id]).(*runtimeapi.PodSandboxStatus)}, nil
}

func (r *runtime) CreateContainer(_ context.Context, sandbox string, c *runtimeapi.ContainerConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	defer r.call("create %s #%d", c.Metadata.Name, c.Metadata.Attempt)()
	if r.sandboxes[sandbox] == nil {
		return "", errNotFound
	}
	r.next++
	id := fmt.Sprintf("c%d", r.next)
	r.inSandbox[id] = sandbox
	r.containers[id] = &runtimeapi.ContainerStatus{Id: id, Metadata: c.Metadata, Labels: c.Labels, Annotations: c.Annotations, Image: c.Image, CreatedAt: time.Now().UnixNano() + int64(r.next), Resources: &runtimeapi.ContainerResources{Linux: c.Linux.Resources}}
	return id, nil
}

func (r *runtime) UpdateContainerResources(_ context.Context, id string, to *runtimeapi.ContainerResources) error {
	defer r.call("update %s to CPUs %s", r.containers[id].Metadata.Name, to.Linux.CpusetCpus)()
	if r.reports {
		r.containers[id].Resources.Linux.CpusetCpus = to.Linux.CpusetCpus
	}
	return nil
}

func (r *runtime) StartContainer(_ context.Context, id string) error {
	defer r.call("start %s", r.containers[id].Metadata.Name)()
	r.containers[id].State, r.containers[id].StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	return nil
}

func (r *runtime) StopContainer(_ context.Context, id string, timeout int64) error {
	r.mu.Lock()
	r.calls = append(r.calls, "stop "+r.containers[id].Metadata.Name)
	r.mu.Unlock()
	r.exit(id, 143)
	return nil
}

// exit ends a container as if its process had.
func (r *runtime) exit(id string, code int32) {
	r.mu.Lock()
	c := r.containers[id]
	c.State, c.ExitCode, c.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, time.Now().UnixNano()
	r.mu.Unlock()
	r.changed(types.UID(c.Labels[kubelettypes.KubernetesPodUIDLabel]))
}

func (r *runtime) RemoveContainer(_ context.Context, id string) error {
	defer r.call("remove container")()
	delete(r.containers, id)
	return nil
}

func (r *runtime) ListContainers(context.Context, *runtimeapi.ContainerFilter) (out []*runtimeapi.Container, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		out = append(out, &runtimeapi.Container{Id: c.Id, Labels: c.Labels, PodSandboxId: r.inSandbox[c.Id]})
	}
	return out, nil
}

func (r *runtime) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.containers[id] == nil {
		return nil, errNotFound
	}
	return &runtimeapi.ContainerStatusResponse{Status: proto.Clone(r.containers[id]).(*runtimeapi.ContainerStatus)}, nil
}

func (r *runtime) ImageStatus(context.Context, *runtimeapi.ImageSpec, bool) (*runtimeapi.ImageStatusResponse, error) {
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: "sha"}}, nil
}

func (r *runtime) id(t *testing.T, name string) string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, c := range r.containers {
		if c.Metadata.Name == name && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			return id
		}
	}
	t.Fatalf("container %s does not run", name)
	return ""
}

// disk stands for volumes and cgroups, and notes what is released.
type disk struct {
	mu       sync.Mutex
	released []string
}

func (d *disk) SetUp(context.Context, *corev1.Pod) error  { return nil }
func (d *disk) Refresh(context.Context, *corev1.Pod)      {}
func (d *disk) EnsurePod(*corev1.Pod) error               { return nil }
func (d *disk) UpdatePod(*corev1.Pod) error               { return nil }
func (d *disk) TearDown(context.Context, types.UID) error { return d.note("volumes") }
func (d *disk) RemovePod(types.UID) error                 { return d.note("cgroup") }
func (d *disk) ContainerMounts(*corev1.Pod, *corev1.Container, volumes.MountEnv) ([]*runtimeapi.Mount, []*runtimeapi.Device, error) {
	return nil, nil, nil
}

func (d *disk) note(what string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.released = append(d.released, what)
	return nil
}

// api notes the statuses that are reported.
type api struct {
	statuses chan corev1.PodStatus
	removed  chan types.UID
}

func (a *api) Set(_ *corev1.Pod, s corev1.PodStatus) { a.statuses <- s }
func (a *api) Remove(p *corev1.Pod)                  { a.removed <- p.UID }
func (a *api) Forget(types.UID)                      {}

type bench struct {
	*Manager
	runtime *runtime
	disk    *disk
	api     *api
	stop    context.CancelFunc
}

func newBench(t *testing.T, r *runtime) *bench {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	b := &bench{runtime: r, disk: &disk{}, api: &api{statuses: make(chan corev1.PodStatus, 100), removed: make(chan types.UID, 10)}, stop: cancel}
	client := &cri.Client{Runtime: r, Images: r}
	recorder := record.NewFakeRecorder(1000)
	dir := t.TempDir()
	b.Manager = New(ctx, Config{
		Runtime: client, Node: &cri.Node{RootDir: dir, PodLogsRoot: filepath.Join(dir, "logs")}, IDPrefix: "x://",
		Images:  images.New(images.Config{Images: r, Recorder: recorder, Clock: clock.RealClock{}, Parallel: 1}),
		Volumes: b.disk, Cgroups: b.disk, Hooks: &hooks.Runner{Clock: clock.RealClock{}}, Status: b.api, Recorder: recorder, Clock: clock.RealClock{},
		Probes:  probes.New(probes.Config{Recorder: recorder, Clock: clock.RealClock{}, Changed: func(types.UID) {}}),
		HostIPs: func() []string { return []string{"192.0.2.1"} },
		Env: func(context.Context, *corev1.Pod, *corev1.Container, []string) ([]*runtimeapi.KeyValue, error) {
			return nil, nil
		},
		RuntimeHandler:    func(context.Context, *corev1.Pod) (string, error) { return "", nil },
		RecursiveReadOnly: func(string) bool { return false },
		Grant:             func(*corev1.Pod) (string, string) { return "", "" },
		Mirror:            func(p *corev1.Pod) *corev1.Pod { return p },
		Stopped:           func(*corev1.Pod) {},
	})
	r.changed = b.Wake
	t.Cleanup(func() { cancel(); b.Wait() })
	return b
}

// await returns the first reported status that fits.
func (b *bench) await(t *testing.T, what string, fits func(corev1.PodStatus) bool) corev1.PodStatus {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case s := <-b.api.statuses:
			if fits(s) {
				return s
			}
		case <-timeout:
			t.Fatalf("no status with %s; calls: %v", what, b.runtime.calls)
		}
	}
}

// awaitEnd returns once no worker is left.
func (b *bench) awaitEnd(t *testing.T) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) { return len(b.Known()) == 0, nil })
	if err != nil {
		t.Fatalf("a worker does not end; calls: %v", b.runtime.calls)
	}
}

func phaseIs(p corev1.PodPhase) func(corev1.PodStatus) bool {
	return func(s corev1.PodStatus) bool { return s.Phase == p }
}

func newPod(policy corev1.RestartPolicy, names ...string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: corev1.PodSpec{RestartPolicy: policy}}
	for _, n := range names {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: n, Image: "i:1"})
	}
	return pod
}

func TestLifeOfAPod(t *testing.T) {
	b := newBench(t, newRuntime())
	pod := newPod(corev1.RestartPolicyAlways, "a")
	b.Update(pod)
	first := b.await(t, "phase Pending", phaseIs(corev1.PodPending))
	if first.ContainerStatuses[0].State.Waiting == nil {
		t.Errorf("first status: %+v", first.ContainerStatuses[0])
	}
	running := b.await(t, "phase Running", phaseIs(corev1.PodRunning))
	if running.PodIP != "10.0.0.9" {
		t.Errorf("pod IP %q", running.PodIP)
	}
	b.runtime.exit(b.runtime.id(t, "a"), 1)
	again := b.await(t, "one restart", func(s corev1.PodStatus) bool {
		return s.ContainerStatuses[0].RestartCount == 1 && s.ContainerStatuses[0].State.Running != nil
	})
	if last := again.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 1 {
		t.Errorf("last state %+v", last)
	}
	deleted := pod.DeepCopy()
	deleted.DeletionTimestamp, deleted.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now()}, new(int64)
	b.Update(deleted)
	b.await(t, "phase Failed", phaseIs(corev1.PodFailed))
	if uid := <-b.api.removed; uid != "u" {
		t.Errorf("removed %s", uid)
	}
	slices.Sort(b.disk.released)
	if got := fmt.Sprint(b.disk.released); got != "[cgroup volumes]" {
		t.Errorf("released %s", got)
	}
	b.Removed("u")
	b.awaitEnd(t)
	if n := len(b.runtime.containers) + len(b.runtime.sandboxes); n != 0 {
		t.Errorf("%d things left in the runtime", n)
	}
}

func TestRestartOfTheAgentTouchesNothing(t *testing.T) {
	r := newRuntime()
	before := newBench(t, r)
	pod := newPod(corev1.RestartPolicyAlways, "a", "b")
	before.Update(pod)
	status := before.await(t, "phase Running", phaseIs(corev1.PodRunning))
	before.stop()
	before.Wait()
	r.mu.Lock()
	r.calls = nil
	r.mu.Unlock()

	after := newBench(t, r)
	pod = pod.DeepCopy()
	pod.Status = status
	after.Update(pod)
	after.await(t, "phase Running", phaseIs(corev1.PodRunning))
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.calls) > 0 {
		t.Errorf("the new agent did %v", r.calls)
	}
}

// After a power cut containers start at once, whatever back-off they had; one that crashed while the agent was away waits.
func TestPowerCutIsNoCrash(t *testing.T) {
	for _, cut := range []bool{true, false} {
		r := newRuntime()
		before := newBench(t, r)
		pod := newPod(corev1.RestartPolicyAlways, "a")
		before.Update(pod)
		status := before.await(t, "phase Running", phaseIs(corev1.PodRunning))
		before.stop()
		before.Wait()
		id := r.id(t, "a")
		r.containers[id].Annotations["dev.keelson.container.backoff"] = "5m"
		r.changed = func(types.UID) {}
		r.exit(id, 255)
		if cut {
			for _, s := range r.sandboxes {
				s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			}
		}

		after := newBench(t, r)
		pod = pod.DeepCopy()
		pod.Status = status
		after.Update(pod)
		after.await(t, "its container in the state that is due", func(s corev1.PodStatus) bool {
			c := s.ContainerStatuses[0]
			if cut {
				return c.State.Running != nil && c.RestartCount == 1
			}
			return c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff"
		})
	}
}

func TestOrphanIsEnded(t *testing.T) {
	r := newRuntime()
	before := newBench(t, r)
	before.Update(newPod(corev1.RestartPolicyAlways, "a"))
	before.await(t, "phase Running", phaseIs(corev1.PodRunning))
	before.stop()
	before.Wait()

	after := newBench(t, r)
	after.Update(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}})
	after.Removed("u")
	after.awaitEnd(t)
	if n := len(r.containers) + len(r.sandboxes); n != 0 {
		t.Errorf("%d things left in the runtime", n)
	}
}

func TestEviction(t *testing.T) {
	b := newBench(t, newRuntime())
	b.Update(newPod(corev1.RestartPolicyAlways, "a"))
	b.await(t, "phase Running", phaseIs(corev1.PodRunning))
	b.Stop("u", podplan.Stop{Reason: "Evicted", Message: "low", Grace: new(int64)})
	s := b.await(t, "phase Failed", phaseIs(corev1.PodFailed))
	if s.Reason != "Evicted" || s.Message != "low" {
		t.Errorf("status %s: %s", s.Reason, s.Message)
	}
	if b.Active("u") {
		t.Error("an evicted pod still holds resources")
	}
}

// A running container is moved, once, when it is to run on other CPUs, whether or not the runtime tells which it has.
func TestContainersFollowTheirCPUs(t *testing.T) {
	for _, reports := range []bool{true, false} {
		r := newRuntime()
		r.reports = reports
		b := newBench(t, r)
		var cpus atomic.Pointer[string]
		cpus.Store(new("0-3"))
		b.cfg.Node.Place = func(types.UID, string) (string, string, bool) { return *cpus.Load(), "", false }
		b.Update(newPod(corev1.RestartPolicyAlways, "a"))
		b.await(t, "phase Running", phaseIs(corev1.PodRunning))
		updates := func() (out []string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, call := range r.calls {
				if strings.HasPrefix(call, "update") {
					out = append(out, call)
				}
			}
			return out
		}
		for i, want := range []string{"0,3", "0-3"} {
			cpus.Store(&want)
			b.PokeAll()
			err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) { return len(updates()) > i, nil })
			if err != nil {
				t.Fatalf("reports=%t: never moved to %s; calls: %v", reports, want, updates())
			}
		}
		b.Wake("u")
		r.exit(r.id(t, "a"), 1) // a new instance starts with the CPUs of the moment
		b.await(t, "one restart", func(s corev1.PodStatus) bool {
			return s.ContainerStatuses[0].RestartCount == 1 && s.ContainerStatuses[0].State.Running != nil
		})
		if got := fmt.Sprint(updates()); got != "[update a to CPUs 0,3 update a to CPUs 0-3]" {
			t.Errorf("reports=%t: %s", reports, got)
		}
	}
}
