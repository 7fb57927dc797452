// Package volumes makes the volumes of this node's pods exist on disk, keeps their contents fresh while the pod lives, and
// takes them down again. Directories lie where upstream's kubelet has them: <root>/pods/<uid>/volumes/<plugin>/<name>.
package volumes

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/objects"
)

// Config is what a Manager stands on. Client, NodeName and Objects are required.
type Config struct {
	Client   kubernetes.Interface
	NodeName string
	RootDir  string // default /var/lib/kubelet
	Objects  *objects.Cache
	// Node returns this node as last seen, for allocatable resources and the node's UID; may be nil before registration.
	Node  func() *corev1.Node
	Clock clock.WithTicker // default the real one
}

// Manager is safe for concurrent use; calls for one pod are serialised.
type Manager struct{ cfg Config }

// MountEnv is what the mounts of a container depend on beside its spec.
type MountEnv struct {
	PodIPs   []string
	Hostname string                 // as in the sandbox
	Domain   string                 // cluster domain part of the FQDN if the pod has a subdomain, e.g. web.ns.svc.cluster.local
	Env      []*runtimeapi.KeyValue // for subPathExpr
	Images   map[string]string      // volume name → image reference that the runtime pulled, for image volumes
	Restarts int                    // names the termination message file
}

// New returns a manager that has not touched the disk yet.
func New(cfg Config) *Manager { return &Manager{cfg: cfg} }

var errUnfinished = errors.New("not written yet")

// Run refreshes projected contents and serves CSI driver registration until ctx ends.
func (m *Manager) Run(ctx context.Context) error { return errUnfinished }

// SetUp makes all volumes of the pod ready. It is idempotent; its error joins one error per volume in the words of a FailedMount event.
func (m *Manager) SetUp(ctx context.Context, pod *corev1.Pod) error { return errUnfinished }

// Refresh takes a changed pod (labels, annotations) and projects its volumes again.
func (m *Manager) Refresh(ctx context.Context, pod *corev1.Pod) {}

// TearDown unmounts and removes all volumes and the directory of a pod whose containers have ended. It is idempotent.
func (m *Manager) TearDown(ctx context.Context, uid types.UID) error { return errUnfinished }

// Orphans tears down what pods that are not known have left on disk, for example before a crash.
func (m *Manager) Orphans(ctx context.Context, known map[types.UID]struct{}) error { return errUnfinished }

// ContainerMounts returns what the runtime is to mount into a container whose pod is set up.
func (m *Manager) ContainerMounts(pod *corev1.Pod, c *corev1.Container, env MountEnv) ([]*runtimeapi.Mount, []*runtimeapi.Device, error) {
	return nil, nil, errUnfinished
}

// ReadFile reads a file inside a volume of the pod, for podenv.Input.ReadFile.
func (m *Manager) ReadFile(uid types.UID, volume, path string) ([]byte, error) {
	return nil, errUnfinished
}

// InUse lists the unique names of attachable volumes for node.status.volumesInUse.
func (m *Manager) InUse() []corev1.UniqueVolumeName { return nil }
