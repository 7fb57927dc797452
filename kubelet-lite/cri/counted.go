package cri

import (
	"context"
	"time"

	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/kubelet-lite/metrics"
)

// countedRuntime and countedImages count what is asked of the runtime, under the names of upstream's operation types.
type (
	countedRuntime struct{ cri.RuntimeService }
	countedImages  struct{ cri.ImageManagerService }
)

func (c countedRuntime) Version(ctx context.Context, apiVersion string) (_ *runtimeapi.VersionResponse, err error) {
	defer metrics.Operation("version")(&err)
	return c.RuntimeService.Version(ctx, apiVersion)
}

func (c countedRuntime) Status(ctx context.Context, verbose bool) (_ *runtimeapi.StatusResponse, err error) {
	defer metrics.Operation("status")(&err)
	return c.RuntimeService.Status(ctx, verbose)
}

func (c countedRuntime) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (_ string, err error) {
	defer metrics.Operation("run_podsandbox")(&err)
	return c.RuntimeService.RunPodSandbox(ctx, config, handler)
}

func (c countedRuntime) StopPodSandbox(ctx context.Context, id string) (err error) {
	defer metrics.Operation("stop_podsandbox")(&err)
	return c.RuntimeService.StopPodSandbox(ctx, id)
}

func (c countedRuntime) RemovePodSandbox(ctx context.Context, id string) (err error) {
	defer metrics.Operation("remove_podsandbox")(&err)
	return c.RuntimeService.RemovePodSandbox(ctx, id)
}

func (c countedRuntime) PodSandboxStatus(ctx context.Context, id string, verbose bool) (_ *runtimeapi.PodSandboxStatusResponse, err error) {
	defer metrics.Operation("podsandbox_status")(&err)
	return c.RuntimeService.PodSandboxStatus(ctx, id, verbose)
}

func (c countedRuntime) ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) (_ []*runtimeapi.PodSandbox, err error) {
	defer metrics.Operation("list_podsandbox")(&err)
	return c.RuntimeService.ListPodSandbox(ctx, filter)
}

func (c countedRuntime) CreateContainer(ctx context.Context, sandbox string, config *runtimeapi.ContainerConfig, in *runtimeapi.PodSandboxConfig) (_ string, err error) {
	defer metrics.Operation("create_container")(&err)
	return c.RuntimeService.CreateContainer(ctx, sandbox, config, in)
}

func (c countedRuntime) StartContainer(ctx context.Context, id string) (err error) {
	defer metrics.Operation("start_container")(&err)
	return c.RuntimeService.StartContainer(ctx, id)
}

func (c countedRuntime) StopContainer(ctx context.Context, id string, timeout int64) (err error) {
	defer metrics.Operation("stop_container")(&err)
	return c.RuntimeService.StopContainer(ctx, id, timeout)
}

func (c countedRuntime) RemoveContainer(ctx context.Context, id string) (err error) {
	defer metrics.Operation("remove_container")(&err)
	return c.RuntimeService.RemoveContainer(ctx, id)
}

func (c countedRuntime) ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) (_ []*runtimeapi.Container, err error) {
	defer metrics.Operation("list_containers")(&err)
	return c.RuntimeService.ListContainers(ctx, filter)
}

func (c countedRuntime) ContainerStatus(ctx context.Context, id string, verbose bool) (_ *runtimeapi.ContainerStatusResponse, err error) {
	defer metrics.Operation("container_status")(&err)
	return c.RuntimeService.ContainerStatus(ctx, id, verbose)
}

func (c countedRuntime) UpdateContainerResources(ctx context.Context, id string, resources *runtimeapi.ContainerResources) (err error) {
	defer metrics.Operation("update_container")(&err)
	return c.RuntimeService.UpdateContainerResources(ctx, id, resources)
}

func (c countedImages) ListImages(ctx context.Context, filter *runtimeapi.ImageFilter) (_ []*runtimeapi.Image, err error) {
	defer metrics.Operation("list_images")(&err)
	return c.ImageManagerService.ListImages(ctx, filter)
}

func (c countedImages) ImageStatus(ctx context.Context, image *runtimeapi.ImageSpec, verbose bool) (_ *runtimeapi.ImageStatusResponse, err error) {
	defer metrics.Operation("image_status")(&err)
	return c.ImageManagerService.ImageStatus(ctx, image, verbose)
}

func (c countedImages) PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (_ string, err error) {
	defer metrics.Operation("pull_image")(&err)
	return c.ImageManagerService.PullImage(ctx, image, auth, sandbox)
}

func (c countedImages) RemoveImage(ctx context.Context, image *runtimeapi.ImageSpec) (err error) {
	defer metrics.Operation("remove_image")(&err)
	return c.ImageManagerService.RemoveImage(ctx, image)
}

func (c countedRuntime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	defer metrics.Operation("exec_sync")(&err)
	return c.RuntimeService.ExecSync(ctx, id, cmd, timeout)
}
