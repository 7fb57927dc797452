package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/netns"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// orphansConfig is the section [plugins.'dev.keelson.orphans.v1.cri'] of containerd's configuration.
type orphansConfig struct {
	// After is how long a container or a network namespace must be unknown to the CRI plugin before it is removed, such as "5m". It must
	// be longer than any call of a kubelet, since a pod's sandbox becomes known when the call that makes it ends.
	After string `toml:"after"`
}

// The CRI plugin of containerd 2.4 loses a sandbox whose making is given up at the wrong moment, as by the death of the kubelet: the task
// starts nevertheless, so its container cannot be deleted, but is forgotten (podsandbox.Controller.Start sets Container to nil). The
// kubelet then removes the sandbox, and its container, task, mount and snapshot stay for good. A death of containerd itself, while it makes
// or stops a sandbox, may leave the network namespace, which nothing else would ever unmount.
func init() {
	registry.Register(&plugin.Registration{
		Type: "dev.keelson.orphans.v1",
		ID:   "cri",
		Requires: []plugin.Type{
			plugins.GRPCPlugin,
			// What a client in this process needs.
			plugins.EventPlugin, plugins.ServicePlugin, plugins.LeasePlugin, plugins.SandboxStorePlugin, plugins.TransferPlugin, plugins.MountManagerPlugin,
		},
		Config: &orphansConfig{After: "5m"},
		InitFn: startSweeper,
	})
}

func startSweeper(ic *plugin.InitContext) (any, error) {
	after, err := time.ParseDuration(ic.Config.(*orphansConfig).After)
	if err != nil || after <= 0 {
		return nil, fmt.Errorf("after is %q, not a positive duration: %w", ic.Config.(*orphansConfig).After, errdefs.ErrInvalidArgument)
	}
	service, err := ic.GetByID(plugins.GRPCPlugin, "cri")
	if err != nil {
		return nil, fmt.Errorf("no CRI plugin: %w", plugin.ErrSkipPlugin)
	}
	pods, ok := service.(podService)
	if !ok {
		return nil, fmt.Errorf("CRI plugin is a %T, which cannot be asked", service)
	}
	client, err := containerd.New("", containerd.WithDefaultPlatform(platforms.Default()), containerd.WithInMemoryServices(ic))
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	networks := filepath.Join(filepath.Dir(ic.Properties[plugins.PropertyStateDir]), "io.containerd.grpc.v1.cri", "netns")
	s := &sweeper{runtime: &runtime{client, pods, networks}, after: after, unknown: map[string]time.Time{}}
	go s.run(namespaces.WithNamespace(ic.Context, "k8s.io"))
	return s, nil
}

// podService is what the CRI plugin answers.
type podService interface {
	IsInitialized() bool
	ListContainers(context.Context, *cri.ListContainersRequest) (*cri.ListContainersResponse, error)
	ListPodSandbox(context.Context, *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error)
}

// sweeper removes containers, known by their ID, and network namespaces, by their path, that the CRI plugin has made and does not know.
type sweeper struct {
	runtime interface {
		made(context.Context) ([]string, error)
		known(context.Context) (map[string]bool, error)
		remove(ctx context.Context, id string) error
	}
	after   time.Duration
	unknown map[string]time.Time // since when
}

func (s *sweeper) run(ctx context.Context) {
	tick := time.NewTicker(max(s.after/5, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := s.sweep(ctx, now); err != nil {
				log.G(ctx).WithError(err).Warn("orphans: not all could be removed")
			}
		}
	}
}

func (s *sweeper) sweep(ctx context.Context, now time.Time) error {
	made, err := s.runtime.made(ctx) // before what is known, or a new one would be taken for an orphan
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	known, err := s.runtime.known(ctx)
	if err != nil {
		return fmt.Errorf("list the CRI plugin's: %w", err)
	}
	before := s.unknown
	s.unknown = map[string]time.Time{}
	var failed error
	for _, id := range made {
		if known[id] {
			continue
		}
		since, ok := before[id]
		if !ok {
			since = now
		}
		s.unknown[id] = since
		if now.Sub(since) < s.after {
			continue
		}
		if err := s.runtime.remove(ctx, id); err != nil {
			failed = fmt.Errorf("remove %s: %w", id, err)
			continue
		}
		log.G(ctx).Infof("orphans: removed %s, which the CRI plugin has not known since %s", id, since.Format(time.RFC3339))
		delete(s.unknown, id)
	}
	return failed
}

// runtime is this containerd.
type runtime struct {
	*containerd.Client

	pods     podService
	networks string // folder of the CRI plugin's network namespaces (its option netns_mounts_under_state_dir)
}

func (r *runtime) made(ctx context.Context) ([]string, error) {
	ids, err := filepath.Glob(filepath.Join(r.networks, "*"))
	if err != nil {
		return nil, err
	}
	list, err := r.ofCRI(ctx)
	for _, c := range list {
		ids = append(ids, c.ID())
	}
	return ids, err
}

func (r *runtime) ofCRI(ctx context.Context) ([]containerd.Container, error) {
	return r.Containers(ctx, `labels."io.cri-containerd.kind"`)
}

func (r *runtime) known(ctx context.Context) (map[string]bool, error) {
	if !r.pods.IsInitialized() {
		return nil, fmt.Errorf("it has not started yet: %w", errdefs.ErrUnavailable)
	}
	ids := map[string]bool{}
	sandboxes, err := r.pods.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	for _, s := range sandboxes.Items {
		ids[s.Id] = true
	}
	containers, err := r.pods.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	for _, c := range containers.Containers {
		ids[c.Id] = true
	}
	list, err := r.ofCRI(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		spec, err := c.Spec(ctx)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", c.ID(), err)
		}
		ids[network(spec)] = true
	}
	return ids, nil
}

// network is the path of the network namespace that a container joins, if it does.
func network(spec *oci.Spec) string {
	if spec.Linux != nil {
		for _, n := range spec.Linux.Namespaces {
			if n.Type == "network" {
				return n.Path
			}
		}
	}
	return ""
}

func (r *runtime) remove(ctx context.Context, id string) error {
	if filepath.IsAbs(id) {
		return netns.LoadNetNS(id).Remove()
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	container, err := r.LoadContainer(ctx, id)
	if err != nil {
		return ignoreNotFound(err)
	}
	task, err := container.Task(ctx, nil)
	if err == nil {
		_, err = task.Delete(ctx, containerd.WithProcessKill)
	}
	if errdefs.IsNotFound(err) { // its shim may be there nevertheless
		_, err = r.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
		err = errgrpc.ToNative(err)
	}
	if ignoreNotFound(err) != nil {
		return fmt.Errorf("task: %w", err)
	}
	return ignoreNotFound(container.Delete(ctx, containerd.WithSnapshotCleanup))
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
