package dra

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	testingclock "k8s.io/utils/clock/testing"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/plugins"
)

// fakeDriver prepares one CDI device per request of a claim and remembers what is prepared.
type fakeDriver struct {
	drapb.UnimplementedDRAPluginServer

	mu       sync.Mutex
	prepared map[string]bool
	broken   error
}

func (f *fakeDriver) NodePrepareResources(_ context.Context, in *drapb.NodePrepareResourcesRequest) (*drapb.NodePrepareResourcesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	out := &drapb.NodePrepareResourcesResponse{Claims: map[string]*drapb.NodePrepareResourceResponse{}}
	for _, c := range in.Claims {
		f.prepared[c.Name] = true
		out.Claims[c.Uid] = &drapb.NodePrepareResourceResponse{Devices: []*drapb.Device{
			{RequestNames: []string{"gpu"}, PoolName: "pool", DeviceName: "gpu-0", CdiDeviceIds: []string{"test/" + c.Name + "=gpu"}},
			{RequestNames: []string{"nic/fast"}, CdiDeviceIds: []string{"test/" + c.Name + "=nic"}},
		}}
	}
	return out, nil
}

func (f *fakeDriver) NodeUnprepareResources(_ context.Context, in *drapb.NodeUnprepareResourcesRequest) (*drapb.NodeUnprepareResourcesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	out := &drapb.NodeUnprepareResourcesResponse{Claims: map[string]*drapb.NodeUnprepareResourceResponse{}}
	for _, c := range in.Claims {
		delete(f.prepared, c.Name)
		out.Claims[c.Uid] = &drapb.NodeUnprepareResourceResponse{}
	}
	return out, nil
}

func (f *fakeDriver) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = err
}

func (f *fakeDriver) holds() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for name := range f.prepared {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (f *fakeDriver) serve(t *testing.T) plugins.Plugin {
	socket := filepath.Join(t.TempDir(), "d.sock")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	drapb.RegisterDRAPluginServer(server, f)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return plugins.Plugin{Name: "test", Endpoint: socket, Versions: []string{drapb.DRAPluginService}}
}

type bench struct {
	*Manager
	client *fake.Clientset
	clock  *testingclock.FakeClock
	root   string
}

func newBench(t *testing.T, root string, client *fake.Clientset) bench {
	b := bench{client: client, clock: testingclock.NewFakeClock(time.Now()), root: root}
	var err error
	if b.Manager, err = New(Config{Client: client, NodeName: "n", RootDir: root, Clock: b.clock}); err != nil {
		t.Fatal(err)
	}
	return b
}

func resourceClaim(name string, uid types.UID, users ...*corev1.Pod) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: uid}}
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{
		Results: []resourcev1.DeviceRequestAllocationResult{{Request: "gpu", Driver: "test", Pool: "n", Device: "0"}},
	}}
	for _, pod := range users {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
	}
	return c
}

func podWith(name, claim string, requests ...string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	pod.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: &claim}}
	pod.Spec.Containers = []corev1.Container{{Name: "main"}}
	for _, r := range requests {
		pod.Spec.Containers[0].Resources.Claims = append(pod.Spec.Containers[0].Resources.Claims, corev1.ResourceClaim{Name: "c", Request: r})
	}
	return pod
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSharedClaim(t *testing.T) {
	ctx, driver := t.Context(), &fakeDriver{prepared: map[string]bool{}}
	a, b := podWith("a", "shared", ""), podWith("b", "shared", "nic")
	m := newBench(t, t.TempDir(), fake.NewClientset(resourceClaim("shared", "1", a, b)))
	if err := m.Prepare(ctx, a); err == nil || !strings.Contains(err.Error(), "DRA driver test is not registered") {
		t.Fatalf("without a driver: %v", err)
	}
	must(t, m.Register(ctx, driver.serve(t)))
	must(t, m.Prepare(ctx, a))
	must(t, m.Prepare(ctx, b))
	for pod, want := range map[*corev1.Pod][]string{a: {"test/shared=gpu", "test/shared=nic"}, b: {"test/shared=nic"}} {
		var in cri.Instance
		must(t, m.Container(ctx, pod, &pod.Spec.Containers[0], &in))
		if diff := cmp.Diff(want, in.CDIDevices); diff != "" {
			t.Errorf("devices of %s:\n%s", pod.Name, diff)
		}
	}
	must(t, m.Release(ctx, a.UID))
	if diff := cmp.Diff([]string{"shared"}, driver.holds()); diff != "" {
		t.Errorf("while a user is left:\n%s", diff)
	}
	must(t, m.Release(ctx, b.UID))
	must(t, m.Release(ctx, b.UID))
	if held := driver.holds(); len(held) > 0 {
		t.Errorf("still prepared: %v", held)
	}
}

func TestRefusals(t *testing.T) {
	ctx, driver := t.Context(), &fakeDriver{prepared: map[string]bool{}}
	user, stranger := podWith("user", "c", ""), podWith("stranger", "c", "")
	unallocated := resourceClaim("raw", "2", user)
	unallocated.Status.Allocation = nil
	m := newBench(t, t.TempDir(), fake.NewClientset(resourceClaim("c", "1", user), unallocated))
	must(t, m.Register(ctx, driver.serve(t)))
	waiting, missing := podWith("user", "raw", ""), podWith("user", "missing", "")
	for want, pod := range map[string]*corev1.Pod{
		"pod stranger (stranger) is not allowed to use ResourceClaim c (1)": stranger,
		"ResourceClaim raw: claim not allocated":                            waiting,
		"fetch ResourceClaim missing":                                       missing,
	} {
		if err := m.Prepare(ctx, pod); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	driver.fail(errors.New("no luck"))
	if err := m.Prepare(ctx, user); err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("broken driver: %v", err)
	}
	driver.fail(nil)
	must(t, m.Prepare(ctx, user))
}

// What was prepared before a crash is taken back after it, and until then a new claim of the same name has to wait.
func TestRestart(t *testing.T) {
	ctx, driver, root := t.Context(), &fakeDriver{prepared: map[string]bool{}}, t.TempDir()
	old := podWith("old", "c", "")
	client := fake.NewClientset(resourceClaim("c", "1", old))
	m := newBench(t, root, client)
	must(t, m.Register(ctx, driver.serve(t)))
	must(t, m.Prepare(ctx, old))

	m = newBench(t, root, client)
	must(t, m.Register(ctx, driver.serve(t)))
	var in cri.Instance
	must(t, m.Container(ctx, old, &old.Spec.Containers[0], &in))
	if len(in.CDIDevices) != 2 {
		t.Errorf("devices after a restart: %v", in.CDIDevices)
	}
	young := podWith("young", "c", "")
	must(t, client.Tracker().Update(resourcev1.SchemeGroupVersion.WithResource("resourceclaims"), resourceClaim("c", "2", young), "ns"))
	want := "old ResourceClaim with same name c and different UID 1 still exists"
	if err := m.Prepare(ctx, young); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("want %q, got %v", want, err)
	}
	m.Orphans(ctx, func(uid types.UID) bool { return uid == "young" })
	for len(driver.holds()) > 0 {
		<-time.After(time.Millisecond)
	}
	for m.Prepare(ctx, young) != nil {
		<-time.After(time.Millisecond)
	}
}

func TestWipe(t *testing.T) {
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{Driver: "test", NodeName: new("n")}}
	ctx, client := t.Context(), fake.NewClientset(slice)
	m := newBench(t, t.TempDir(), client)
	wiped := func() bool {
		for _, action := range client.Actions() {
			if action.GetVerb() == "delete-collection" {
				return true
			}
		}
		return false
	}
	must(t, m.WipeUnknown(ctx))
	old, young := (&fakeDriver{}).serve(t), (&fakeDriver{}).serve(t)
	must(t, m.Register(ctx, old))
	m.clock.Step(wipeAfter)
	must(t, m.Register(ctx, young))
	for one, err := m.drivers.current("test"); err != nil || one.endpoint != young.Endpoint || one.conn.GetState() != connectivity.Ready; one, err = m.drivers.current("test") {
		<-time.After(time.Millisecond)
	}
	m.Deregister(ctx, old)
	m.clock.Step(wipeAfter)
	if wiped() {
		t.Error("wiped although the driver is there")
	}
	m.Deregister(ctx, young)
	m.clock.Step(wipeAfter - 1)
	if wiped() {
		t.Error("wiped too early")
	}
	m.clock.Step(1)
	for !wiped() {
		<-time.After(time.Millisecond)
	}
}
