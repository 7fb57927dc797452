package pretend

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer makes a container in a sandbox that is ready.
func (r *Runtime) CreateContainer(_ context.Context, sandboxID string, config *runtimeapi.ContainerConfig, sandboxConfig *runtimeapi.PodSandboxConfig) (string, error) {
	r.mu.Lock()
	s := r.sandboxes[sandboxID]
	if s == nil {
		r.mu.Unlock()
		return "", notFound("sandbox", sandboxID)
	}
	if s.status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		r.mu.Unlock()
		return "", status.Errorf(codes.FailedPrecondition, "sandbox %q is not running", sandboxID)
	}
	c := &container{sandbox: sandboxID, status: &runtimeapi.ContainerStatus{
		Id: newID(), Metadata: config.Metadata, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: r.stamp(), Image: config.Image,
		ImageRef: config.GetImage().GetImage(), ImageId: config.GetImage().GetImage(), Labels: config.Labels, Annotations: config.Annotations,
		Mounts: config.Mounts, StopSignal: config.StopSignal, Resources: &runtimeapi.ContainerResources{Linux: config.GetLinux().GetResources()},
		LogPath: logPath(sandboxConfig, config),
	}}
	r.containers[c.status.Id] = c
	r.mu.Unlock()
	r.tell(s.status, c.status.Id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return c.status.Id, nil
}

func logPath(sandbox *runtimeapi.PodSandboxConfig, config *runtimeapi.ContainerConfig) string {
	if sandbox.GetLogDirectory() == "" {
		return ""
	}
	return sandbox.LogDirectory + "/" + config.LogPath
}

// StartContainer lets a created container run, and for how long its pod says.
func (r *Runtime) StartContainer(_ context.Context, id string) error {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil {
		r.mu.Unlock()
		return notFound("container", id)
	}
	if c.status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		r.mu.Unlock()
		return status.Errorf(codes.FailedPrecondition, "container %q is in state %s", id, c.status.State)
	}
	s := r.sandboxes[c.sandbox]
	c.status = proto.CloneOf(c.status)
	c.status.State, c.status.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, r.stamp()
	if s.runFor > 0 {
		c.end = r.cfg.Clock.AfterFunc(s.runFor, func() { r.ended(id, s) })
	}
	r.mu.Unlock()
	r.tell(s.status, id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return nil
}

// ended is the end of a container's own accord.
func (r *Runtime) ended(id string, s *sandbox) {
	r.mu.Lock()
	c := r.containers[id]
	over := c == nil || !r.exit(c, s.exit)
	r.mu.Unlock()
	if !over {
		r.tell(s.status, id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
}

// Exit ends a running container as if its process had ended.
func (r *Runtime) Exit(id string, code int32) {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil {
		r.mu.Unlock()
		return
	}
	s := *r.sandboxes[c.sandbox]
	r.mu.Unlock()
	s.exit = code
	r.ended(id, &s)
}

// exit marks a running container as ended; it reports whether it ran. The lock is held.
func (r *Runtime) exit(c *container, code int32) bool {
	if c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return false
	}
	if c.end != nil {
		c.end.Stop()
	}
	c.status = proto.CloneOf(c.status)
	c.status.State, c.status.ExitCode, c.status.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, r.stamp()
	c.status.Reason = "Completed"
	if code != 0 {
		c.status.Reason = "Error"
	}
	return true
}

// StopContainer ends a container at once: there is no process that could take its time.
func (r *Runtime) StopContainer(_ context.Context, id string, _ int64) error {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil {
		r.mu.Unlock()
		return notFound("container", id)
	}
	ran := r.exit(c, exitTerminated)
	s := r.sandboxes[c.sandbox].status
	r.mu.Unlock()
	if ran {
		r.tell(s, id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
	return nil
}

// RemoveContainer ends a container that runs. To remove what is gone is no error.
func (r *Runtime) RemoveContainer(_ context.Context, id string) error {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil {
		r.mu.Unlock()
		return nil
	}
	r.exit(c, exitKilled)
	delete(r.containers, id)
	s := r.sandboxes[c.sandbox].status
	r.mu.Unlock()
	r.tell(s, id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

// ContainerStatus returns one container.
func (r *Runtime) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, notFound("container", id)
	}
	return &runtimeapi.ContainerStatusResponse{Status: c.status}, nil
}

// ListContainers lists those that the filter selects.
func (r *Runtime) ListContainers(_ context.Context, f *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.Container
	for id, c := range r.containers {
		s := c.status
		if f.GetId() != "" && f.Id != id || f.GetPodSandboxId() != "" && f.PodSandboxId != c.sandbox ||
			f.GetState() != nil && f.State.State != s.State || !selects(f.GetLabelSelector(), s.Labels) {
			continue
		}
		out = append(out, &runtimeapi.Container{
			Id: id, PodSandboxId: c.sandbox, Metadata: s.Metadata, Image: s.Image, ImageRef: s.ImageRef, ImageId: s.ImageId, State: s.State,
			CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations,
		})
	}
	return out, nil
}

// UpdateContainerResources takes note of the new limits.
func (r *Runtime) UpdateContainerResources(_ context.Context, id string, resources *runtimeapi.ContainerResources) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return notFound("container", id)
	}
	c.status = proto.CloneOf(c.status)
	c.status.Resources = resources
	return nil
}

// UpdatePodSandboxResources has nothing to change.
func (r *Runtime) UpdatePodSandboxResources(context.Context, *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// ExecSync succeeds in a running container: whatever a probe or a hook wants to know, all is well.
func (r *Runtime) ExecSync(_ context.Context, id string, _ []string, _ time.Duration) (stdout, stderr []byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch c := r.containers[id]; {
	case c == nil:
		return nil, nil, notFound("container", id)
	case c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING:
		return nil, nil, status.Errorf(codes.FailedPrecondition, "container %q is not running", id)
	}
	return nil, nil, nil
}
