package stats

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	testclock "k8s.io/utils/clock/testing"
)

type runtimeStub struct {
	runtimeapi.RuntimeServiceClient
	cpu uint64
}

func number(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func (r *runtimeStub) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	r.cpu += 2e9
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: []*runtimeapi.PodSandboxStats{{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: "s", Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "ns", Uid: "u"}},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu: &runtimeapi.CpuUsage{UsageCoreNanoSeconds: number(r.cpu)},
			Containers: []*runtimeapi.ContainerStats{{
				Attributes:    &runtimeapi.ContainerAttributes{Id: "c", Metadata: &runtimeapi.ContainerMetadata{Name: "c"}},
				WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: number(1000), InodesUsed: number(3)},
			}},
		},
	}}}, nil
}

func TestSummary(t *testing.T) {
	root := t.TempDir()
	volume := filepath.Join(root, "pods/u/volumes/kubernetes.io~empty-dir/v")
	logs := filepath.Join(root, "logs")
	for path, size := range map[string]int{filepath.Join(volume, "f"): 8192, filepath.Join(logs, "ns_p_u/c/0.log"): 4096} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	clock := testclock.NewFakeClock(time.Now())
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}}}
	p := New(Config{NodeName: "n", RootDir: root, LogDir: logs, Runtime: &runtimeStub{}, Pods: func() []*corev1.Pod { return []*corev1.Pod{pod} }, Clock: clock})
	first, err := p.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first.Pods[0].CPU.UsageNanoCores != nil {
		t.Error("a rate after one sample")
	}
	if m := first.Node.Memory; *m.WorkingSetBytes == 0 || *m.AvailableBytes == 0 || *first.Node.CPU.UsageCoreNanoSeconds == 0 || *first.Node.Fs.CapacityBytes == 0 || *first.Node.Rlimit.NumOfRunningProcesses == 0 {
		t.Errorf("node: %+v", first.Node)
	}
	clock.Step(4 * time.Second)
	second, err := p.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{
		"nanocores": *second.Pods[0].CPU.UsageNanoCores,
		"volume":    *second.Pods[0].VolumeStats[0].UsedBytes,
		"inodes":    *second.Pods[0].VolumeStats[0].InodesUsed,
		"log":       *second.Pods[0].Containers[0].Logs.UsedBytes,
	}
	volumeUse, err := walk(volume)
	if err != nil {
		t.Fatal(err)
	}
	logUse, _ := walk(filepath.Join(logs, "ns_p_u/c"))
	if diff := cmp.Diff(map[string]uint64{"nanocores": 5e8, "volume": volumeUse.bytes, "inodes": 2, "log": logUse.bytes}, got); diff != "" {
		t.Error(diff)
	}
	if volumeUse.bytes < 8192 || *second.Pods[0].EphemeralStorage.UsedBytes < 8192+4096+1000 {
		t.Errorf("volume %d, ephemeral %d", volumeUse.bytes, *second.Pods[0].EphemeralStorage.UsedBytes)
	}
}

func TestParseProcessCount(t *testing.T) {
	if n, ok := parseProcessCount("0.20 0.18 0.12 1/345 11206\n"); !ok || n != 345 {
		t.Error(n, ok)
	}
}
