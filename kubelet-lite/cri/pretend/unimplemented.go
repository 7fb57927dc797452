package pretend

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// unimplemented is the part of the CRI that needs a process, a disk or a clock of one.
type unimplemented struct{}

func no[T any]() (zero T, err error) {
	return zero, status.Error(codes.Unimplemented, "a hollow container only pretends to run")
}

func (unimplemented) Exec(context.Context, *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return no[*runtimeapi.ExecResponse]()
}

func (unimplemented) Attach(context.Context, *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return no[*runtimeapi.AttachResponse]()
}

func (unimplemented) PortForward(context.Context, *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return no[*runtimeapi.PortForwardResponse]()
}
func (unimplemented) ReopenContainerLog(context.Context, string) error { return nil }

func (unimplemented) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) error {
	_, err := no[any]()
	return err
}

func (unimplemented) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) error {
	_, err := no[any]()
	return err
}

func (unimplemented) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return no[*runtimeapi.RestorePodResponse]()
}

func (unimplemented) ContainerStats(context.Context, string) (*runtimeapi.ContainerStats, error) {
	return no[*runtimeapi.ContainerStats]()
}

func (unimplemented) ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	return no[[]*runtimeapi.ContainerStats]()
}

func (unimplemented) PodSandboxStats(context.Context, string) (*runtimeapi.PodSandboxStats, error) {
	return no[*runtimeapi.PodSandboxStats]()
}

func (unimplemented) ListPodSandboxStats(context.Context, *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	return no[[]*runtimeapi.PodSandboxStats]()
}

func (unimplemented) ListMetricDescriptors(context.Context) ([]*runtimeapi.MetricDescriptor, error) {
	return no[[]*runtimeapi.MetricDescriptor]()
}

func (unimplemented) ListPodSandboxMetrics(context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	return no[[]*runtimeapi.PodSandboxMetrics]()
}

func (unimplemented) UpdateRuntimeConfig(context.Context, *runtimeapi.RuntimeConfig) error {
	return nil
}

func (unimplemented) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}
func (unimplemented) Close(context.Context) error { return nil }
