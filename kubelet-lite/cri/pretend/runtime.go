// Package pretend is a container runtime in memory: it keeps the CRI's rules, tells of everything that happens, and runs nothing.
// Hollow nodes live on it. It passes the contract test of the real runtime (kubelet-lite/cri/contract).
package pretend

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	criapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
	"k8s.io/utils/clock"
)

// A container of a pod with these annotations ends by itself: after a duration ("30s") and with an exit code (default 0). All others
// run until they are stopped.
const (
	RunForAnnotation   = "keelson.dev/hollow-run-for"
	ExitCodeAnnotation = "keelson.dev/hollow-exit-code"
)

const (
	exitTerminated = 143 // of a process that SIGTERM has ended
	exitKilled     = 137
)

// Config of a Runtime.
type Config struct {
	// Range is what pods get their addresses from; until it is known, the network is not ready.
	Range func() (netip.Prefix, bool)
	Clock clock.WithDelayedExecution
	// Changed, if set, is told of each pod that something has happened to, beside the event stream.
	Changed func(types.UID)
}

// Runtime is safe for concurrent use. What it has handed out is never changed.
type Runtime struct {
	unimplemented
	cfg Config

	mu         sync.Mutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	addresses  map[netip.Addr]bool
	streams    map[chan *runtimeapi.ContainerEventResponse]bool
	created    int64 // last creation time given, so that no two are the same
}

type sandbox struct {
	status  *runtimeapi.PodSandboxStatus
	runFor  time.Duration
	exit    int32
	address netip.Addr
}

type container struct {
	status  *runtimeapi.ContainerStatus
	sandbox string
	end     clock.Timer
}

var _ criapi.RuntimeService = (*Runtime)(nil)

// New returns a runtime without pods.
func New(cfg Config) *Runtime {
	return &Runtime{
		cfg: cfg, sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, addresses: map[netip.Addr]bool{},
		streams: map[chan *runtimeapi.ContainerEventResponse]bool{},
	}
}

func notFound(what, id string) error {
	return status.Errorf(codes.NotFound, "%s %q: not found", what, id)
}

func newID() string {
	a, b := uuid.New(), uuid.New()
	return fmt.Sprintf("%x%x", a[:], b[:])
}

// stamp is the current time, later than any that it has returned before.
func (r *Runtime) stamp() int64 {
	r.created = max(r.created+1, r.cfg.Clock.Now().UnixNano())
	return r.created
}

// Version names the runtime: container IDs are hollow://ID.
func (r *Runtime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "hollow", RuntimeVersion: "1.0", RuntimeApiVersion: "v1"}, nil
}

// Status is ready once pods can get addresses.
func (r *Runtime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if _, ok := r.cfg.Range(); !ok {
		network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", "no pod CIDR yet"
	}
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, network,
	}}}, nil
}

// RunPodSandbox gives the pod an address.
func (r *Runtime) RunPodSandbox(_ context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	namespaces := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	s := &sandbox{status: &runtimeapi.PodSandboxStatus{
		Id: newID(), Metadata: config.Metadata, State: runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: r.stamp(),
		Labels: config.Labels, Annotations: config.Annotations, RuntimeHandler: handler, Network: &runtimeapi.PodSandboxNetworkStatus{},
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: namespaces}},
	}}
	if namespaces.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		var err error
		if s.address, err = r.freeAddress(); err != nil {
			return "", err
		}
		r.addresses[s.address] = true
		s.status.Network.Ip = s.address.String()
	}
	// Annotations that do not parse are nobody's promise: such a container runs until it is stopped.
	s.runFor, _ = time.ParseDuration(config.Annotations[RunForAnnotation])
	if code, err := strconv.ParseInt(config.Annotations[ExitCodeAnnotation], 10, 32); err == nil {
		s.exit = int32(code)
	}
	r.sandboxes[s.status.Id] = s
	return s.status.Id, nil
}

// freeAddress returns the lowest free one. The first of a range is the network's, the second its gateway's.
func (r *Runtime) freeAddress() (netip.Addr, error) {
	pods, ok := r.cfg.Range()
	if !ok {
		return netip.Addr{}, status.Error(codes.Unavailable, "network is not ready: no pod CIDR yet")
	}
	for a := pods.Masked().Addr().Next().Next(); pods.Contains(a.Next()); a = a.Next() {
		if !r.addresses[a] {
			return a, nil
		}
	}
	return netip.Addr{}, status.Errorf(codes.ResourceExhausted, "no IP addresses available in range set: %s", pods)
}

// StopPodSandbox ends the pod's containers and frees its address.
func (r *Runtime) StopPodSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	s := r.sandboxes[id]
	if s == nil {
		r.mu.Unlock()
		return notFound("sandbox", id)
	}
	for _, c := range r.of(id) {
		r.exit(c, exitKilled)
	}
	delete(r.addresses, s.address)
	s.status = proto.CloneOf(s.status)
	s.status.State, s.status.Network = runtimeapi.PodSandboxState_SANDBOX_NOTREADY, &runtimeapi.PodSandboxNetworkStatus{}
	r.mu.Unlock()
	r.tell(s.status, "", runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	return nil
}

// RemovePodSandbox removes the pod's containers too. To remove what is gone is no error.
func (r *Runtime) RemovePodSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	s := r.sandboxes[id]
	if s == nil {
		r.mu.Unlock()
		return nil
	}
	for _, c := range r.of(id) {
		r.exit(c, exitKilled)
		delete(r.containers, c.status.Id)
	}
	delete(r.addresses, s.address)
	delete(r.sandboxes, id)
	r.mu.Unlock()
	r.tell(s.status, "", runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

// of are the containers of a sandbox.
func (r *Runtime) of(sandbox string) []*container {
	var out []*container
	for _, c := range r.containers {
		if c.sandbox == sandbox {
			out = append(out, c)
		}
	}
	return out
}

// PodSandboxStatus returns one sandbox.
func (r *Runtime) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil, notFound("sandbox", id)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: s.status}, nil
}

// ListPodSandbox lists those that the filter selects.
func (r *Runtime) ListPodSandbox(_ context.Context, f *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.PodSandbox
	for id, s := range r.sandboxes {
		if f.GetId() != "" && f.Id != id || f.GetState() != nil && f.State.State != s.status.State || !selects(f.GetLabelSelector(), s.status.Labels) {
			continue
		}
		out = append(out, &runtimeapi.PodSandbox{
			Id: id, Metadata: s.status.Metadata, State: s.status.State, CreatedAt: s.status.CreatedAt, Labels: s.status.Labels,
			Annotations: s.status.Annotations, RuntimeHandler: s.status.RuntimeHandler,
		})
	}
	return out, nil
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// GetContainerEvents sends all events to the channel until ctx ends. A reader that does not keep up loses its stream, as it would
// lose a connection.
func (r *Runtime) GetContainerEvents(ctx context.Context, events chan *runtimeapi.ContainerEventResponse, established func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	const backlog = 256 // one event for each container of a full node, twice
	stream := make(chan *runtimeapi.ContainerEventResponse, backlog)
	r.mu.Lock()
	r.streams[stream] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.streams, stream)
		r.mu.Unlock()
	}()
	if established != nil {
		established(nil)
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-stream:
			if !ok {
				return status.Error(codes.ResourceExhausted, "the reader of events is too slow")
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// tell sends an event of a sandbox, or of a container in it. The lock must not be held: listeners may ask back.
func (r *Runtime) tell(s *runtimeapi.PodSandboxStatus, containerID string, kind runtimeapi.ContainerEventType) {
	if containerID == "" {
		containerID = s.Id
	}
	r.mu.Lock()
	if len(r.streams) > 0 {
		e := &runtimeapi.ContainerEventResponse{ContainerId: containerID, ContainerEventType: kind, CreatedAt: r.cfg.Clock.Now().UnixNano(), PodSandboxStatus: s}
		for _, c := range r.of(s.Id) {
			e.ContainersStatuses = append(e.ContainersStatuses, c.status)
		}
		for stream := range r.streams {
			if len(stream) == cap(stream) {
				delete(r.streams, stream)
				close(stream)
				continue
			}
			stream <- e
		}
	}
	r.mu.Unlock()
	if r.cfg.Changed != nil {
		r.cfg.Changed(types.UID(s.Labels[kubelettypes.KubernetesPodUIDLabel]))
	}
}
