// Package podresources tells the node's monitors which pod has which devices, CPUs and memory (KEP-606, KEP-2403, KEP-3695): the kubelet's
// pod-resources API v1 on a socket below the agent's folder.
package podresources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"

	"keelson.dev/kubelet-lite/cri"
)

// Config is what a server works with.
type Config struct {
	podresourcesapi.UnsafePodResourcesListerServer // all methods are there

	RootDir string // /var/lib/kubelet
	Pods    func() []*corev1.Pod
	Devices interface {
		Held(pod types.UID, container string) []*podresourcesapi.ContainerDevices
		Allocatable() []*podresourcesapi.ContainerDevices
	}
	Claims interface {
		Resources(pod *corev1.Pod, c *corev1.Container) []*podresourcesapi.DynamicResource
	}
	Topology interface {
		Held(pod types.UID, container string) (cpus []int64, memory []*podresourcesapi.ContainerMemory)
		Allocatable() (cpus []int64, memory []*podresourcesapi.ContainerMemory)
	}
}

// What a client may ask for: monitors ask every few seconds, and each answer walks over all pods.
const (
	perSecond = 100
	burst     = 10
)

// Run serves until ctx ends.
func (c Config) Run(ctx context.Context) error {
	socket := filepath.Join(c.RootDir, "pod-resources", "kubelet.sock")
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listen for pod resources: %w", err)
	}
	limit := flowcontrol.NewTokenBucketRateLimiter(perSecond, burst)
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if !limit.TryAccept() {
			return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
		}
		return handle(ctx, request)
	}))
	podresourcesapi.RegisterPodResourcesListerServer(server, c)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve pod resources: %w", err)
	}
	return nil
}

// List tells what every pod has that still holds something.
func (c Config) List(context.Context, *podresourcesapi.ListPodResourcesRequest) (*podresourcesapi.ListPodResourcesResponse, error) {
	out := &podresourcesapi.ListPodResourcesResponse{}
	for _, pod := range c.Pods() {
		out.PodResources = append(out.PodResources, c.of(pod))
	}
	return out, nil
}

// GetAllocatableResources tells what the node has to give.
func (c Config) GetAllocatableResources(context.Context, *podresourcesapi.AllocatableResourcesRequest) (*podresourcesapi.AllocatableResourcesResponse, error) {
	cpus, memory := c.Topology.Allocatable()
	return &podresourcesapi.AllocatableResourcesResponse{Devices: c.Devices.Allocatable(), CpuIds: cpus, Memory: memory}, nil
}

// Get tells what one pod has. An unknown one is an error.
func (c Config) Get(_ context.Context, in *podresourcesapi.GetPodResourcesRequest) (*podresourcesapi.GetPodResourcesResponse, error) {
	for _, pod := range c.Pods() {
		if pod.Namespace == in.PodNamespace && pod.Name == in.PodName {
			return &podresourcesapi.GetPodResourcesResponse{PodResources: c.of(pod)}, nil
		}
	}
	return nil, fmt.Errorf("pod %s in namespace %s not found", in.PodName, in.PodNamespace)
}

// of leaves out containers that do not last.
func (c Config) of(pod *corev1.Pod) *podresourcesapi.PodResources {
	out := &podresourcesapi.PodResources{Name: pod.Name, Namespace: pod.Namespace}
	add := func(in *corev1.Container) {
		cpus, memory := c.Topology.Held(pod.UID, in.Name)
		out.Containers = append(out.Containers, &podresourcesapi.ContainerResources{
			Name: in.Name, Devices: c.Devices.Held(pod.UID, in.Name), DynamicResources: c.Claims.Resources(pod, in), CpuIds: cpus, Memory: memory,
		})
	}
	for i := range pod.Spec.InitContainers {
		if cri.IsSidecar(&pod.Spec.InitContainers[i]) {
			add(&pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}
