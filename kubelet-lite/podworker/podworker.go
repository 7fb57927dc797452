// Package podworker runs one goroutine per pod. It owns everything that is known about the pod in memory, and does the same four
// things over and over: observe the runtime, plan (podplan), start what the plan says, report (podstatus).
//
//	spec, events, probe results, finished actions, timers ──▶ wake ──▶ observe ─▶ plan ─▶ execute ─▶ report
//
// Actions run in goroutines of their own, so that a pull, the volumes and the sandbox proceed side by side and a pod can be told to
// stop at any time; each hands its outcome back as a function that the worker calls. Nothing here has to survive a crash.
package podworker

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/hooks"
	"keelson.dev/kubelet-lite/images"
	"keelson.dev/kubelet-lite/podplan"
	"keelson.dev/kubelet-lite/probes"
	"keelson.dev/kubelet-lite/volumes"
)

// Volumes are the pod's volumes; *volumes.Manager has them.
type Volumes interface {
	SetUp(ctx context.Context, pod *corev1.Pod) error
	TearDown(ctx context.Context, uid types.UID) error
	Refresh(ctx context.Context, pod *corev1.Pod)
	ContainerMounts(pod *corev1.Pod, c *corev1.Container, env volumes.MountEnv) ([]*runtimeapi.Mount, []*runtimeapi.Device, error)
}

// Cgroups are the pod's control groups; *cgroups.Manager has them.
type Cgroups interface {
	EnsurePod(pod *corev1.Pod) error
	UpdatePod(pod *corev1.Pod) error
	RemovePod(uid types.UID) error
}

// Devices hands out devices to pods; *dra.Manager and *devices.Manager do.
type Devices interface {
	// Prepare comes before the pod's sandbox, and again if it has failed.
	Prepare(ctx context.Context, pod *corev1.Pod) error
	// Container adds what a container was given to its next instance.
	Container(ctx context.Context, pod *corev1.Pod, c *corev1.Container, in *cri.Instance) error
	// Health is how the devices are that a container has.
	Health(pod *corev1.Pod, c *corev1.Container) []corev1.ResourceStatus
	// Release takes back what a pod had.
	Release(ctx context.Context, pod types.UID) error
}

// Status brings statuses to the API; *statusmanager.Manager does.
type Status interface {
	Set(pod *corev1.Pod, status corev1.PodStatus)
	Remove(pod *corev1.Pod)
	Forget(uid types.UID)
}

// Config is what workers work with.
type Config struct {
	Runtime  *cri.Client
	Node     *cri.Node
	IDPrefix string
	Images   *images.Manager
	Volumes  Volumes
	Cgroups  Cgroups
	Devices  []Devices // in the order in which they prepare
	Probes   *probes.Manager
	Hooks    *hooks.Runner
	Status   Status
	Recorder record.EventRecorder
	Clock    clock.WithTicker
	// HostIPs are the node's addresses, the primary one first.
	HostIPs func() []string
	// Env computes a container's environment.
	Env func(ctx context.Context, pod *corev1.Pod, c *corev1.Container, podIPs []string) ([]*runtimeapi.KeyValue, error)
	// RuntimeHandler resolves the pod's RuntimeClass.
	RuntimeHandler func(ctx context.Context, pod *corev1.Pod) (string, error)
	// RecursiveReadOnly says whether a handler can mount recursively read-only.
	RecursiveReadOnly func(handler string) bool
	// Grant decides whether the node can give a pod the resources that its spec now asks for: an empty reason means yes, else it is
	// that of the condition PodResizePending.
	Grant func(pod *corev1.Pod) (reason, message string)
	// Mirror returns the API object that shows a static pod's status, or nil while there is none.
	Mirror func(pod *corev1.Pod) *corev1.Pod
	// Release takes back what else the node's managers gave a pod; nil: nothing.
	Release func(pod types.UID) error
	// Stopped is called when a pod has released its resources on the node.
	Stopped func(pod *corev1.Pod)
	// LegacyLogDir holds one link per container for log collectors: /var/log/containers.
	LegacyLogDir string
}

// Manager has the workers. It is safe for concurrent use.
type Manager struct {
	cfg Config
	ctx context.Context //nolint:containedctx // bounds the life of workers, which outlive the calls that start them
	wg  sync.WaitGroup

	mu      sync.Mutex
	workers map[types.UID]*worker
}

// New returns a manager whose workers live until ctx ends.
func New(ctx context.Context, cfg Config) *Manager {
	return &Manager{cfg: cfg, ctx: ctx, workers: map[types.UID]*worker{}}
}

// Wait returns when all workers have ended, after the context of New.
func (m *Manager) Wait() { m.wg.Wait() }

// Update gives a pod's newest spec to its worker, and starts one if there is none.
func (m *Manager) Update(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.workers[pod.UID]
	if w == nil {
		if m.ctx.Err() != nil {
			return
		}
		w = newWorker(m, pod)
		m.workers[pod.UID] = w
		m.wg.Go(func() { w.run(m.ctx) })
		return
	}
	w.update(func() { w.pod = pod })
}

// Removed tells that a pod is gone from its source: whatever is left of it on the node goes too.
func (m *Manager) Removed(uid types.UID) {
	m.with(uid, func(w *worker) { w.update(func() { w.removed = true }) })
}

// Stop asks to end a pod for a reason of the node's own.
func (m *Manager) Stop(uid types.UID, stop podplan.Stop) {
	m.with(uid, func(w *worker) {
		w.update(func() {
			if w.stop == nil {
				w.stop = &stop
			}
		})
	})
}

// Stopping reports whether Stop was called for a pod.
func (m *Manager) Stopping(uid types.UID) (stopping bool) {
	m.with(uid, func(w *worker) {
		w.mu.Lock()
		stopping = w.stop != nil
		w.mu.Unlock()
	})
	return stopping
}

// Wake tells that the runtime has news of a pod.
func (m *Manager) Wake(uid types.UID) {
	m.with(uid, func(w *worker) { w.update(func() { w.news = true }) })
}

// Poke asks for a new plan with what is known, after a probe's result or a volume's arrival.
func (m *Manager) Poke(uid types.UID) {
	m.with(uid, func(w *worker) { w.update(func() { w.retry = true }) })
}

// WakeAll tells that there may be news of any pod.
func (m *Manager) WakeAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		w.update(func() { w.stale = true })
	}
}

// PokeAll asks every worker for a new plan, after the node has got resources back.
func (m *Manager) PokeAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		w.update(func() {})
	}
}

// Known lists the pods that have a worker.
func (m *Manager) Known() map[types.UID]struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[types.UID]struct{}, len(m.workers))
	for uid := range m.workers {
		out[uid] = struct{}{}
	}
	return out
}

// Runtime returns what the runtime last told about a pod; nil if nothing is known yet.
func (m *Manager) Runtime(uid types.UID) *cri.Pod {
	var out *cri.Pod
	m.with(uid, func(w *worker) {
		w.mu.Lock()
		out = w.seen
		w.mu.Unlock()
	})
	return out
}

// Active reports whether a pod still holds resources on the node.
func (m *Manager) Active(uid types.UID) bool {
	active := false
	m.with(uid, func(w *worker) {
		w.mu.Lock()
		active = !w.released
		w.mu.Unlock()
	})
	return active
}

func (m *Manager) with(uid types.UID, f func(*worker)) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w != nil {
		f(w)
	}
}

func (m *Manager) drop(uid types.UID) {
	m.mu.Lock()
	delete(m.workers, uid)
	m.mu.Unlock()
}

const (
	observeRetry = time.Second     // until a runtime that did not answer is asked again
	longStep     = 5 * time.Second // after which the runtime's news are looked at although a step is under way
	setbackStart = time.Second     // first delay after an action that failed
	setbackMax   = 15 * time.Second
)
