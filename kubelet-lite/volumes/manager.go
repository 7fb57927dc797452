// Package volumes makes the volumes of this node's pods exist on disk, keeps their contents fresh while the pod lives, and
// takes them down again. Directories lie where upstream's kubelet has them: <root>/pods/<uid>/volumes/<plugin>/<name>.
//
// SetUp works from the pod's spec and is idempotent; TearDown works from the disk alone, so that it also cleans up after a pod
// that this process has never seen. What lies between, the refreshing of projected contents, is driven by watches and by the
// end of a token's life, through one queue of pod UIDs.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/metrics"
	"keelson.dev/kubelet-lite/objects"
	"keelson.dev/kubelet-lite/plugins"
)

// Config is what a Manager stands on. Client, NodeName and Objects are required.
type Config struct {
	Client   kubernetes.Interface
	NodeName string
	RootDir  string // default /var/lib/kubelet
	Objects  *objects.Cache
	// Node returns this node as last seen, for allocatable resources and the node's UID; it may return nil before registration.
	Node func() *corev1.Node
	// Wake is called when something that a pod waits for in SetUp has changed, so that its worker tries again at once.
	Wake func(types.UID)
	// RecursiveReadOnly reports whether a runtime handler can mount recursively read-only; nil means no.
	RecursiveReadOnly func(handler string) bool
	// Plugins handles plugin types beside CSI that register in the root's plugins_registry (plugins.DRA, plugins.Device).
	Plugins map[string]plugins.Handler
	Clock   clock.WithTicker // default the real one
}

const (
	// refreshWorkers is small: a refresh is some file writes and at most one short API call.
	refreshWorkers = 2
	// refreshRetry is how soon a failed refresh is tried again.
	refreshRetry = 10 * time.Second
)

// Manager is safe for concurrent use; calls for one pod are serialised.
type Manager struct {
	cfg     Config
	tokens  *tokens
	bundles *trustBundles
	certs   *podCertificates
	csi     *csiDrivers
	devices keyed // one lock per volume that pods share
	queue   workqueue.TypedDelayingInterface[types.UID]
	prepare func() error

	mu   sync.Mutex
	pods map[types.UID]*podState
}

// podState is what is known of one pod; mu also serialises the work on its directory.
type podState struct {
	mu    sync.Mutex
	pod   *corev1.Pod
	ready map[string]*mounted // by volume name
	gone  bool
}

// mounted is a volume that is ready for containers.
type mounted struct {
	path       string // directory or file on the host; the device for a block volume
	readOnly   bool
	block      bool
	csi        bool                    // its driver may want to be called again
	attachable corev1.UniqueVolumeName // set for volumes that a controller attaches
}

// New returns a manager that has not touched the disk yet.
func New(cfg Config) *Manager {
	if cfg.RootDir == "" {
		cfg.RootDir = "/var/lib/kubelet"
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Node == nil {
		cfg.Node = func() *corev1.Node { return nil }
	}
	if cfg.Wake == nil {
		cfg.Wake = func(types.UID) {}
	}
	m := &Manager{cfg: cfg, pods: map[types.UID]*podState{}}
	m.tokens = newTokens(cfg.Client, cfg.Clock)
	m.bundles = newTrustBundles(cfg.Client, func() { m.enqueueIf(usesTrustBundle) })
	m.certs = newPodCertificates(cfg)
	m.csi = newCSIDrivers(cfg, func() { m.enqueueIf(usesCSI) })
	m.queue = workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[types.UID]{Clock: cfg.Clock})
	m.prepare = sync.OnceValue(func() error { return prepareRoot(cfg.RootDir) })
	cfg.Objects.OnChange(func(key objects.Key) {
		m.enqueueIf(func(pod *corev1.Pod) bool { _, uses := objects.References(pod)[key]; return uses })
	})
	return m
}

// Run refreshes projected contents and serves CSI driver registration until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.prepare(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for range refreshWorkers {
		wg.Go(func() { m.refreshLoop(ctx) })
	}
	wg.Go(func() { m.bundles.run(ctx) })
	err := m.csi.run(ctx)
	m.queue.ShutDown()
	wg.Wait()
	return err
}

func (m *Manager) refreshLoop(ctx context.Context) {
	stop := context.AfterFunc(ctx, m.queue.ShutDown)
	defer stop()
	for {
		uid, shutdown := m.queue.Get()
		if shutdown {
			return
		}
		if err := m.refresh(ctx, uid); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Volumes of a pod could not be refreshed", "podUID", uid)
			m.queue.AddAfter(uid, refreshRetry)
		}
		m.queue.Done(uid)
	}
}

func (m *Manager) enqueueIf(uses func(*corev1.Pod) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, state := range m.pods {
		if uses(state.pod) {
			m.queue.Add(uid)
		}
	}
}

// state returns the record of a pod and stores its newest spec.
func (m *Manager) state(pod *corev1.Pod) *podState {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.pods[pod.UID]
	if s == nil {
		s = &podState{ready: map[string]*mounted{}}
		m.pods[pod.UID] = s
	}
	s.pod = pod
	return s
}

func (m *Manager) known(uid types.UID) (*podState, *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.pods[uid]; s != nil {
		return s, s.pod
	}
	return nil, nil
}

// SetUp makes all volumes that the pod's containers use ready, and registers the pod's ConfigMaps and Secrets with the objects
// cache. It is idempotent. Its error joins one error per volume in the words of a FailedMount event.
func (m *Manager) SetUp(ctx context.Context, pod *corev1.Pod) error {
	if err := m.prepare(); err != nil {
		return err
	}
	m.cfg.Objects.Register(pod) //nolint:contextcheck // its watches outlive this call
	s := m.state(pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return fmt.Errorf("pod %s is being torn down", pod.UID)
	}
	used := usedVolumes(pod)
	errs := make([]error, len(pod.Spec.Volumes))
	results := make([]*mounted, len(pod.Spec.Volumes))
	var wg sync.WaitGroup
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !used[v.Name] || s.ready[v.Name] != nil {
			continue
		}
		wg.Go(func() { results[i], errs[i] = m.setUpVolume(ctx, pod, v) })
	}
	wg.Wait()
	for i, result := range results {
		if errs[i] == nil && result != nil {
			s.ready[pod.Spec.Volumes[i].Name] = result
		}
	}
	m.schedule(pod, s)
	return errors.Join(errs...)
}

func (m *Manager) setUpVolume(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (result *mounted, err error) {
	for _, k := range kinds() {
		if !k.match(v) {
			continue
		}
		if plugin := pluginOf(v); plugin != "" {
			defer metrics.Storage(plugin, "volume_mount")(&err)
		}
		if result, err = k.setUp(m, ctx, pod, v); err != nil {
			if _, ok := errors.AsType[mountError](err); ok {
				return nil, err
			}
			return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
		return result, nil
	}
	return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : no volume plugin matched", v.Name)
}

// pluginOf is what metrics call the plugin of a volume. That of a claim is known once it has been looked up.
func pluginOf(v *corev1.Volume) string {
	const prefix = "kubernetes.io/"
	switch {
	case v.EmptyDir != nil:
		return prefix + "empty-dir"
	case v.HostPath != nil:
		return prefix + "host-path"
	case v.ConfigMap != nil:
		return prefix + "configmap"
	case v.Secret != nil:
		return prefix + "secret"
	case v.DownwardAPI != nil:
		return prefix + "downward-api"
	case v.Projected != nil:
		return prefix + "projected"
	case v.Image != nil:
		return prefix + "image"
	case v.NFS != nil:
		return prefix + "nfs"
	case v.CSI != nil:
		return prefix + "csi:" + v.CSI.Driver
	}
	return ""
}

// mountError carries its own complete event text, where it is not SetUp that failed.
type mountError struct{ error }

func (e mountError) Unwrap() error { return e.error }

// kind is one way to provide a volume.
type kind struct {
	match func(*corev1.Volume) bool
	setUp func(*Manager, context.Context, *corev1.Pod, *corev1.Volume) (*mounted, error)
}

// kinds is the list of supported volume sources.
func kinds() []kind {
	return []kind{
		{func(v *corev1.Volume) bool { return v.EmptyDir != nil }, (*Manager).setUpEmptyDir},
		{func(v *corev1.Volume) bool { return v.HostPath != nil }, (*Manager).setUpHostPath},
		{projects, (*Manager).setUpProjection},
		{func(v *corev1.Volume) bool { return v.Image != nil }, (*Manager).setUpImage},
		{func(v *corev1.Volume) bool { return v.PersistentVolumeClaim != nil || v.Ephemeral != nil }, (*Manager).setUpClaim},
		{func(v *corev1.Volume) bool { return v.NFS != nil }, (*Manager).setUpNFS},
		{func(v *corev1.Volume) bool { return v.CSI != nil }, (*Manager).setUpInlineCSI},
	}
}

// setUpImage has nothing to do on disk: the runtime mounts the image by its reference.
func (m *Manager) setUpImage(context.Context, *corev1.Pod, *corev1.Volume) (*mounted, error) {
	return &mounted{readOnly: true}, nil
}

// Refresh takes a changed pod (labels, annotations, ephemeral containers) and projects its volumes again.
func (m *Manager) Refresh(_ context.Context, pod *corev1.Pod) {
	if s, old := m.known(pod.UID); s != nil && old != pod {
		m.cfg.Objects.Register(pod) //nolint:contextcheck // its watches outlive this call
		m.state(pod)
		m.queue.Add(pod.UID)
	}
}

// refresh projects the pod's ready volumes again, or wakes the worker of a pod that still waits for its volumes.
func (m *Manager) refresh(ctx context.Context, uid types.UID) error {
	s, _ := m.known(uid)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, pod := m.known(uid) // the newest, now that it is our turn
	if s.gone || pod == nil {
		return nil
	}
	used, waiting := usedVolumes(pod), false
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case !used[v.Name]:
		case s.ready[v.Name] == nil:
			waiting = true
		case projects(v):
			if _, err := m.setUpProjection(ctx, pod, v); err != nil {
				errs = append(errs, fmt.Errorf("volume %q: %w", v.Name, err))
			}
		case s.ready[v.Name].csi:
			errs = append(errs, m.republish(ctx, pod, v))
		}
	}
	m.schedule(pod, s)
	if waiting {
		m.cfg.Wake(uid)
	}
	return errors.Join(errs...)
}

// schedule queues the pod for the moment at which the first of its tokens, certificates or drivers is due.
func (m *Manager) schedule(pod *corev1.Pod, s *podState) {
	next := m.tokens.nextRefresh(pod.UID)
	if due := m.certs.nextRefresh(pod.UID); next.IsZero() || !due.IsZero() && due.Before(next) {
		next = due
	}
	for _, v := range s.ready {
		if soon := m.cfg.Clock.Now().Add(republishInterval); v.csi && (next.IsZero() || soon.Before(next)) {
			next = soon
		}
	}
	if !next.IsZero() {
		m.queue.AddAfter(pod.UID, max(next.Sub(m.cfg.Clock.Now()), time.Second))
	}
}

// InUse lists the unique names of attachable volumes for node.status.volumesInUse.
func (m *Manager) InUse() []corev1.UniqueVolumeName {
	m.mu.Lock()
	states := make([]*podState, 0, len(m.pods))
	for _, s := range m.pods {
		states = append(states, s)
	}
	m.mu.Unlock()
	names := map[corev1.UniqueVolumeName]struct{}{}
	for _, s := range states {
		s.mu.Lock()
		for _, v := range s.ready {
			if v.attachable != "" {
				names[v.attachable] = struct{}{}
			}
		}
		s.mu.Unlock()
	}
	return sortedKeys(names)
}

// usedVolumes are those that some container mounts: only they are set up.
func usedVolumes(pod *corev1.Pod) map[string]bool {
	used := map[string]bool{}
	eachContainer(pod, func(c *corev1.Container) {
		for _, mount := range c.VolumeMounts {
			used[mount.Name] = true
		}
		for _, device := range c.VolumeDevices {
			used[device.Name] = true
		}
		for _, env := range c.Env {
			if env.ValueFrom != nil && env.ValueFrom.FileKeyRef != nil {
				used[env.ValueFrom.FileKeyRef.VolumeName] = true
			}
		}
	})
	return used
}

func eachContainer(pod *corev1.Pod, f func(*corev1.Container)) {
	for i := range pod.Spec.InitContainers {
		f(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		f(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		f(&c)
	}
}

func (m *Manager) podDir(uid types.UID) string {
	return filepath.Join(m.cfg.RootDir, "pods", string(uid))
}

// volumeDir is where upstream's kubelet keeps a volume of the given plugin; tests and people look there.
func (m *Manager) volumeDir(uid types.UID, plugin, name string) string {
	return filepath.Join(m.podDir(uid), "volumes", "kubernetes.io~"+plugin, name)
}

// allocatable is empty until the node has registered.
func (m *Manager) allocatable() corev1.ResourceList {
	if node := m.cfg.Node(); node != nil {
		return node.Status.Allocatable
	}
	return nil
}
