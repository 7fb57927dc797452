package volumes

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// fakeDriver is a CSI driver whose volumes are bind mounts of one directory.
type fakeDriver struct {
	csi.UnimplementedNodeServer
	registerapi.UnimplementedRegistrationServer
	socket, backing string

	mu    sync.Mutex
	calls []string
	told  map[string]string // volume context of the last publish
}

func (d *fakeDriver) note(call string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, call)
}

func (d *fakeDriver) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: "fake.csi", Endpoint: d.socket, SupportedVersions: []string{"1.0.0"}}, nil
}

func (d *fakeDriver) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	d.note("registered " + s.Error)
	return &registerapi.RegistrationStatusResponse{}, nil
}

func (d *fakeDriver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	rpc := func(t csi.NodeServiceCapability_RPC_Type) *csi.NodeServiceCapability {
		return &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}}
	}
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{
		rpc(csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME), rpc(csi.NodeServiceCapability_RPC_EXPAND_VOLUME),
	}}, nil
}

func (d *fakeDriver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: "id-of-n", MaxVolumesPerNode: 7, AccessibleTopology: &csi.Topology{Segments: map[string]string{"zone": "a"}}}, nil
}

func (d *fakeDriver) NodeStageVolume(context.Context, *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	d.note("stage")
	return &csi.NodeStageVolumeResponse{}, nil
}

func (d *fakeDriver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	d.note("publish " + r.VolumeId)
	d.mu.Lock()
	d.told = r.VolumeContext
	d.mu.Unlock()
	if err := os.MkdirAll(r.TargetPath, 0o755); err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, unix.Mount(d.backing, r.TargetPath, "", unix.MS_BIND, "")
}

func (d *fakeDriver) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	d.note("expand")
	return &csi.NodeExpandVolumeResponse{CapacityBytes: r.CapacityRange.RequiredBytes}, nil
}

func (d *fakeDriver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	d.note("unpublish")
	return &csi.NodeUnpublishVolumeResponse{}, errors.Join(unix.Unmount(r.TargetPath, 0), os.Remove(r.TargetPath))
}

func (d *fakeDriver) NodeUnstageVolume(context.Context, *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	d.note("unstage")
	return &csi.NodeUnstageVolumeResponse{}, nil
}

func (d *fakeDriver) serve(t *testing.T, socket string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterNodeServer(server, d)
	registerapi.RegisterRegistrationServer(server, d)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
}

func TestCSIVolumeFromRegistrationToUnstage(t *testing.T) {
	needRoot(t)
	ctx := t.Context()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	client := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "node-uid"}},
		&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "fake.csi"}, Spec: storagev1.CSIDriverSpec{
			AttachRequired: new(false), PodInfoOnMount: new(true), FSGroupPolicy: new(storagev1.FileFSGroupPolicy),
			VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral},
		}},
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}, ClaimRef: &corev1.ObjectReference{UID: "pvc-uid"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "fake.csi", VolumeHandle: "h"}},
		}},
		&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pvc", UID: "pvc-uid"},
			Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: size},
		},
	)
	m := startManager(t, client)
	driver := &fakeDriver{backing: t.TempDir(), socket: filepath.Join(m.cfg.RootDir, "plugins_registry/fake.csi-reg.sock")}
	if err := os.WriteFile(filepath.Join(driver.backing, "keep"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	driver.serve(t, driver.socket)
	eventually(t, "registration", func() bool { _, err := m.csi.get("fake.csi"); return err == nil })

	csiNode, err := client.StorageV1().CSINodes().Get(ctx, "n", metav1.GetOptions{})
	want := []storagev1.CSINodeDriver{{Name: "fake.csi", NodeID: "id-of-n", TopologyKeys: []string{"zone"}, Allocatable: &storagev1.VolumeNodeResources{Count: new(int32(7))}}}
	if diff := cmp.Diff(want, csiNode.Spec.Drivers); diff != "" || err != nil {
		t.Error(diff, err)
	}
	node, _ := client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
	if node.Labels["zone"] != "a" || node.Annotations[nodeIDAnnotation] != `{"fake.csi":"id-of-n"}` {
		t.Errorf("node: %v %v", node.Labels, node.Annotations)
	}

	first := podWith(corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "pvc"}}})
	first.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(77))}
	second := first.DeepCopy()
	second.Name, second.UID = "q", "uid-2"
	for _, pod := range []*corev1.Pod{first, second} {
		if err := m.SetUp(ctx, pod); err != nil {
			t.Fatal(err)
		}
	}
	if driver.told["csi.storage.k8s.io/pod.name"] != "q" {
		t.Errorf("pod info: %v", driver.told)
	}
	if info, err := os.Stat(filepath.Join(m.volumeDir("uid-1", "csi", "pv"), "mount/keep")); err != nil || gidOf(info) != 77 {
		t.Errorf("fsGroup: %v", err)
	}
	claim, _ := client.CoreV1().PersistentVolumeClaims("ns").Get(ctx, "pvc", metav1.GetOptions{})
	if got := claim.Status.Capacity.Storage().String(); got != "2Gi" {
		t.Errorf("claim's capacity %s", got)
	}
	inUse := []corev1.UniqueVolumeName{"kubernetes.io/csi/fake.csi^h"}
	if diff := cmp.Diff(inUse, m.InUse()); diff != "" {
		t.Error(diff)
	}
	for _, pod := range []*corev1.Pod{first, second} {
		if err := m.TearDown(ctx, pod.UID); err != nil {
			t.Fatal(err)
		}
	}
	driver.mu.Lock()
	calls := strings.Join(driver.calls, ", ")
	driver.mu.Unlock()
	if diff := cmp.Diff("registered , stage, publish h, expand, stage, publish h, unpublish, unpublish, unstage", calls); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(driver.backing, "keep")); err != nil {
		t.Errorf("the volume's data: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(m.cfg.RootDir, "plugins/kubernetes.io/csi/fake.csi/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	inline := podWith(corev1.Volume{Name: "in", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "fake.csi"}}})
	if err := m.SetUp(ctx, inline); err != nil {
		t.Fatal(err)
	}
	if driver.told["csi.storage.k8s.io/ephemeral"] != "true" {
		t.Errorf("inline: %v", driver.told)
	}
	if err := m.TearDown(ctx, inline.UID); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(driver.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	eventually(t, "deregistration", func() bool {
		csiNode, err := client.StorageV1().CSINodes().Get(ctx, "n", metav1.GetOptions{})
		return err == nil && len(csiNode.Spec.Drivers) == 0
	})
}

func TestLocalVolume(t *testing.T) {
	needRoot(t)
	ctx := t.Context()
	disk := t.TempDir()
	client := fake.NewClientset(
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{UID: "c"}, PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: disk}},
		}},
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pvc", UID: "c"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}},
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "unbound", UID: "d"}},
	)
	m := startManager(t, client)
	claim := func(name string) corev1.Volume {
		return corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
	}
	if err := m.SetUp(ctx, podWith(claim("unbound"))); err == nil || !strings.Contains(err.Error(), "PVC is not bound") {
		t.Errorf("unbound: %v", err)
	}
	pod := podWith(claim("pvc"))
	pod.UID = "uid-2"
	if err := m.SetUp(ctx, pod); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.volumeDir("uid-2", "local-volume", "pv"), "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.TearDown(ctx, "uid-2"); err != nil {
		t.Fatal(err)
	}
	if content(t, filepath.Join(disk, "f")) != "x" {
		t.Error("the data is gone")
	}
}

func TestKeyedLockForgetsItsKeys(t *testing.T) {
	var k keyed
	var wg sync.WaitGroup
	var order []int
	for i := range 20 {
		wg.Go(func() {
			defer k.lock("x")()
			order = append(order, i)
		})
	}
	wg.Wait()
	slices.Sort(order)
	if len(order) != 20 || order[19] != 19 || len(k.locks) != 0 {
		t.Error(order, k.locks)
	}
}
