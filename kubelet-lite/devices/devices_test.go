package devices

import (
	"context"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/plugins"
	"keelson.dev/kubelet-lite/topology"
)

const gpus = "example.com/gpu"

// fakePlugin has devices and prefers the last ones.
type fakePlugin struct {
	pluginapi.UnimplementedDevicePluginServer

	lists chan []*pluginapi.Device
}

func (*fakePlugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{GetPreferredAllocationAvailable: true}, nil
}

func (f *fakePlugin) ListAndWatch(_ *pluginapi.Empty, s grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	for list := range f.lists {
		if err := s.Send(&pluginapi.ListAndWatchResponse{Devices: list}); err != nil {
			return err
		}
	}
	return nil
}

func (*fakePlugin) GetPreferredAllocation(_ context.Context, in *pluginapi.PreferredAllocationRequest) (*pluginapi.PreferredAllocationResponse, error) {
	r := in.ContainerRequests[0]
	n := len(r.AvailableDeviceIDs)
	ids := r.AvailableDeviceIDs[n-int(r.AllocationSize):]
	return &pluginapi.PreferredAllocationResponse{ContainerResponses: []*pluginapi.ContainerPreferredAllocationResponse{{DeviceIDs: ids}}}, nil
}

func (*fakePlugin) Allocate(_ context.Context, in *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	ids := strings.Join(in.ContainerRequests[0].DevicesIds, ",")
	return &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{{
		Envs: map[string]string{"GPUS": ids}, Devices: []*pluginapi.DeviceSpec{{HostPath: "/dev/null", ContainerPath: "/dev/gpu", Permissions: "rw"}},
		CdiDevices: []*pluginapi.CDIDevice{{Name: "example.com/gpu=" + ids}},
	}}}, nil
}

type bench struct {
	*Manager
	plugin  *fakePlugin
	changed chan struct{}
}

func newBench(t *testing.T, root string) *bench {
	b := &bench{plugin: &fakePlugin{lists: make(chan []*pluginapi.Device)}, changed: make(chan struct{}, 10)}
	var err error
	if b.Manager, err = New(Config{RootDir: root, Changed: func() { b.changed <- struct{}{} }, Affected: func(types.UID) {}}); err != nil {
		t.Fatal(err)
	}
	return b
}

// admit gives a pod its devices, wherever they are.
func (b *bench) admit(t *testing.T, pod *corev1.Pod) error {
	t.Helper()
	return b.admitNear(t, pod, 0)
}

func (b *bench) admitNear(t *testing.T, pod *corev1.Pod, near topology.Nodes) error {
	t.Helper()
	a := b.Admit(pod)
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if err := a.Take(t.Context(), &list[i], near); err != nil {
				return err
			}
		}
	}
	return a.Commit()
}

// start lets the plugin register, with n healthy devices and a sick one.
func (b *bench) start(t *testing.T, n int) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "p.sock")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	must(t, err)
	server := grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(server, b.plugin)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	must(t, b.Register(t.Context(), plugins.Plugin{Name: gpus, Endpoint: socket}))
	b.list(n)
}

func (b *bench) list(n int) {
	list := []*pluginapi.Device{{ID: "sick", Health: pluginapi.Unhealthy}}
	for i := range n {
		list = append(list, &pluginapi.Device{ID: "g" + strconv.Itoa(i), Health: pluginapi.Healthy})
	}
	b.plugin.lists <- list
	<-b.changed
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pod makes a pod whose containers want as many devices as given; those of init containers come first.
func pod(name string, init, containers []int) *corev1.Pod {
	make := func(prefix string, amounts []int) (out []corev1.Container) {
		for i, n := range amounts {
			c := corev1.Container{Name: prefix + strconv.Itoa(i)}
			c.Resources.Limits = corev1.ResourceList{gpus: *resource.NewQuantity(int64(n), resource.DecimalSI)}
			out = append(out, c)
		}
		return out
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec:       corev1.PodSpec{InitContainers: make("i", init), Containers: make("c", containers)},
	}
}

// held is what each container of a pod holds.
func (b *bench) held(pod *corev1.Pod) map[string]string {
	out := map[string]string{}
	for _, g := range b.state.Grants[pod.UID] {
		out[g.Container] = strings.Join(g.IDs, ",")
	}
	return out
}

func TestHandOut(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.start(t, 4)
	capacity, allocatable := b.Resources()
	if all, healthy := capacity[gpus], allocatable[gpus]; all.Value() != 5 || healthy.Value() != 4 {
		t.Errorf("capacity %v, allocatable %v", &all, &healthy)
	}
	first, second, third := pod("first", []int{2}, []int{1, 2}), pod("second", nil, []int{1}), pod("third", nil, []int{1})
	must(t, b.admit(t, first))
	if diff := cmp.Diff(map[string]string{"i0": "g2,g3", "c0": "g2", "c1": "g3,g1"}, b.held(first)); diff != "" {
		t.Errorf("init containers leave theirs, the rest is what the plugin prefers:\n%s", diff)
	}
	must(t, b.admit(t, second))
	want := "requested number of devices unavailable for example.com/gpu. Requested: 1, Available: 0"
	if err := b.admit(t, third); err == nil || err.Error() != want {
		t.Errorf("without free devices: %v", err)
	}
	third.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{RequestMappings: []corev1.ContainerExtendedResourceRequest{{ContainerName: "c0", ResourceName: gpus}}}
	if err := b.admit(t, third); err != nil || len(b.held(third)) > 0 {
		t.Errorf("a pod whose device comes from a claim: %v, %v", b.held(third), err)
	}
	third.Status.ExtendedResourceClaimStatus = nil
	must(t, b.Release(t.Context(), second.UID))
	must(t, b.admit(t, third))
}

func TestContainer(t *testing.T) {
	root := t.TempDir()
	b := newBench(t, root)
	b.start(t, 2)
	p := pod("p", nil, []int{2})
	must(t, b.admit(t, p))
	must(t, b.Prepare(t.Context(), p))

	// After a restart, the container gets the same even before the plugin is back; a new pod has to wait for that.
	again := newBench(t, root)
	var in cri.Instance
	must(t, again.Container(t.Context(), p, &p.Spec.Containers[0], &in))
	if len(in.Envs) != 1 || string(in.Envs[0].Value) != "g0,g1" || len(in.Devices) != 1 || len(in.CDIDevices) != 1 {
		t.Errorf("after a restart: %+v", in)
	}
	if err := again.admit(t, pod("q", nil, []int{1})); err == nil {
		t.Error("a pod was admitted without its device")
	}
	must(t, again.Orphans(func(types.UID) bool { return false }))
	again.start(t, 2)
	must(t, again.admit(t, pod("q", nil, []int{2})))
}

// The devices of a plugin that has gone are not handed out.
func TestPluginGone(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.start(t, 1)
	close(b.plugin.lists)
	<-b.changed
	if _, allocatable := b.Resources(); !allocatable.Name(gpus, resource.DecimalSI).IsZero() {
		t.Errorf("allocatable without the plugin: %v", allocatable)
	}
	if err := b.admit(t, pod("p", nil, []int{1})); err == nil {
		t.Error("a pod was admitted")
	}
}

// Devices say where they are: a container gets those near the nodes that were chosen, and others only if they do not suffice.
func TestNear(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.start(t, 0)
	var list []*pluginapi.Device
	for i := range 4 { // g0 and g1 on node 0, g2 and g3 on node 1
		list = append(list, &pluginapi.Device{
			ID: "g" + strconv.Itoa(i), Health: pluginapi.Healthy, Topology: &pluginapi.TopologyInfo{Nodes: []*pluginapi.NUMANode{{ID: int64(i / 2)}}},
		})
	}
	b.plugin.lists <- list
	<-b.changed
	first, second := pod("first", nil, []int{1}), pod("second", nil, []int{2})
	must(t, b.admitNear(t, first, 1<<0))
	if got := b.held(first)["c0"]; got != "g1" { // which the plugin prefers to g0
		t.Errorf("near node 0: %s", got)
	}
	want := [][]topology.Hint{{{Nodes: 1 << 1, Preferred: true}, {Nodes: 1<<0 | 1<<1}}}
	for _, c := range []*corev1.Container{nil, &second.Spec.Containers[0]} {
		if diff := cmp.Diff(want, b.Admit(second).Hints(c)); diff != "" {
			t.Errorf("two devices are left on node 1 only:\n%s", diff)
		}
	}
	must(t, b.admitNear(t, second, 1<<0))
	if got := b.held(second)["c0"]; got != "g0,g2" {
		t.Errorf("one near node 0, one from elsewhere: %s", got)
	}
	if got := b.Admit(second).Hints(nil); got != nil {
		t.Errorf("a pod that has its devices: %v", got)
	}
}

// The pod status and the pod-resources API tell what a container has, and how it is.
func TestHealth(t *testing.T) {
	b := newBench(t, t.TempDir())
	var affected []types.UID
	b.cfg.Affected = func(uid types.UID) { affected = append(affected, uid) }
	b.start(t, 2)
	p := pod("p", nil, []int{2})
	must(t, b.admit(t, p))
	shows := func(want ...corev1.ResourceHealthStatus) {
		t.Helper()
		var got []corev1.ResourceHealthStatus
		for _, s := range b.Health(p, &p.Spec.Containers[0]) {
			for _, r := range s.Resources {
				got = append(got, r.Health)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	shows(corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusHealthy)
	near := &pluginapi.TopologyInfo{Nodes: []*pluginapi.NUMANode{{ID: 1}}}
	b.plugin.lists <- []*pluginapi.Device{{ID: "g0", Health: pluginapi.Healthy}, {ID: "g1", Health: pluginapi.Unhealthy, Topology: near}}
	<-b.changed
	shows(corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy)
	resources, allocatable := b.grouped(gpus, []string{"g0", "g1"}), b.Allocatable()
	if len(resources) != 2 || resources[1].Topology.Nodes[0].ID != 1 || len(allocatable) != 1 || cmp.Diff([]string{"g0"}, allocatable[0].DeviceIds) != "" {
		t.Errorf("resources %v, allocatable %v", resources, allocatable)
	}
	close(b.plugin.lists)
	<-b.changed
	shows(corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnhealthy)
	if len(affected) == 0 || affected[0] != p.UID {
		t.Errorf("told of %v", affected)
	}
}
