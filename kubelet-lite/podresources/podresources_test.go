package podresources

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/testing/protocmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"

	"keelson.dev/kubelet-lite/plugins"
)

type fakeDevices struct{}

func (fakeDevices) Held(_ types.UID, container string) []*podresourcesapi.ContainerDevices {
	return []*podresourcesapi.ContainerDevices{{ResourceName: "example.com/gpu", DeviceIds: []string{"of-" + container}}}
}

func (fakeDevices) Allocatable() []*podresourcesapi.ContainerDevices {
	return []*podresourcesapi.ContainerDevices{{ResourceName: "example.com/gpu", DeviceIds: []string{"a", "b"}}}
}

type fakeClaims struct{}

func (fakeClaims) Resources(*corev1.Pod, *corev1.Container) []*podresourcesapi.DynamicResource {
	return []*podresourcesapi.DynamicResource{{ClaimName: "claim"}}
}

type fakeTopology struct{}

func (fakeTopology) Held(types.UID, string) ([]int64, []*podresourcesapi.ContainerMemory) {
	return []int64{2, 3}, []*podresourcesapi.ContainerMemory{{MemoryType: "memory", Size: 4096}}
}

func (fakeTopology) Allocatable() ([]int64, []*podresourcesapi.ContainerMemory) {
	return []int64{1, 2, 3}, []*podresourcesapi.ContainerMemory{{MemoryType: "memory", Size: 8192}}
}

func TestServer(t *testing.T) {
	root := t.TempDir()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "once"}, {Name: "sidecar", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}},
		Containers:     []corev1.Container{{Name: "main"}},
	}}
	config := Config{RootDir: root, Pods: func() []*corev1.Pod { return []*corev1.Pod{pod} }, Devices: fakeDevices{}, Claims: fakeClaims{}, Topology: fakeTopology{}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	done := make(chan error, 1)
	go func() { done <- config.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	conn, err := plugins.Dial(filepath.Join(root, "pod-resources", "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := podresourcesapi.NewPodResourcesListerClient(conn)
	list, err := client.List(ctx, &podresourcesapi.ListPodResourcesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	container := func(name string) *podresourcesapi.ContainerResources {
		cpus, memory := fakeTopology{}.Held("", name)
		return &podresourcesapi.ContainerResources{
			Name: name, Devices: fakeDevices{}.Held("", name), DynamicResources: fakeClaims{}.Resources(nil, nil), CpuIds: cpus, Memory: memory,
		}
	}
	want := &podresourcesapi.PodResources{Namespace: "ns", Name: "p", Containers: []*podresourcesapi.ContainerResources{container("sidecar"), container("main")}}
	if diff := cmp.Diff([]*podresourcesapi.PodResources{want}, list.PodResources, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	one, err := client.Get(ctx, &podresourcesapi.GetPodResourcesRequest{PodNamespace: "ns", PodName: "p"})
	if err != nil || cmp.Diff(want, one.PodResources, protocmp.Transform()) != "" {
		t.Errorf("one pod: %v, %v", one, err)
	}
	if _, err := client.Get(ctx, &podresourcesapi.GetPodResourcesRequest{PodNamespace: "other", PodName: "p"}); err == nil {
		t.Error("a pod that is not there was found")
	}
	all, err := client.GetAllocatableResources(ctx, &podresourcesapi.AllocatableResourcesRequest{})
	cpus, memory := fakeTopology{}.Allocatable()
	wantAll := &podresourcesapi.AllocatableResourcesResponse{Devices: fakeDevices{}.Allocatable(), CpuIds: cpus, Memory: memory}
	if err != nil || cmp.Diff(wantAll, all, protocmp.Transform()) != "" {
		t.Errorf("allocatable: %v, %v", all, err)
	}
}
