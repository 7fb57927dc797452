package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestFlagsWinOverFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"base.yaml":  "maxPods: 50\nclusterDNS: [10.0.0.1]\nclusterDomain: file.local\nport: 1\n",
		"10-a.conf":  "maxPods: 60\npodPidsLimit: 7\n",
		"20-b.conf":  "podPidsLimit: 8\n",
		"ignored.md": "maxPods: 1\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config, flags := NewConfig(), pflag.NewFlagSet("", pflag.ContinueOnError)
	config.AddFlags(flags)
	err := flags.Parse([]string{
		"--config", filepath.Join(dir, "base.yaml"), "--config-dir", dir, "--cluster-dns", "10.0.0.2,10.0.0.3", "--port", "2",
		"--node-name", "Node-1", "--register-with-taints", "a=b:NoSchedule,c:NoExecute",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := config.Resolve(flags); err != nil {
		t.Fatal(err)
	}
	k := config.Kubelet
	got := []any{k.MaxPods, *k.PodPidsLimit, strings.Join(k.ClusterDNS, " "), k.ClusterDomain, k.Port, config.NodeName, k.RegisterWithTaints, config.CertDir}
	want := []any{
		int32(60), int64(8), "10.0.0.2 10.0.0.3", "file.local", int32(2), "node-1",
		[]corev1.Taint{{Key: "a", Value: "b", Effect: "NoSchedule"}, {Key: "c", Effect: "NoExecute"}},
		"/var/lib/kubelet/pki",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBadConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("maxPodz: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"no such file": {"--config", "/nonexistent"}, "unknown field": {"--config", path},
		"taint without effect": {"--register-with-taints", "a=b"}, "taint with a wrong effect": {"--register-with-taints", "a=b:Maybe"},
	} {
		config, flags := NewConfig(), pflag.NewFlagSet("", pflag.ContinueOnError)
		config.AddFlags(flags)
		if err := flags.Parse(args); err != nil {
			t.Fatal(err)
		}
		if err := config.Resolve(flags); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAllocatable(t *testing.T) {
	capacity := corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("1Gi"), "ephemeral-storage": resource.MustParse("1000"), "pods": resource.MustParse("110")}
	got, err := allocatable(capacity, map[string]string{"cpu": "500m"}, map[string]string{"cpu": "500m", "memory": "24Mi"},
		map[string]string{"memory.available": "100Mi", "nodefs.available": "10%"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[corev1.ResourceName]string{"cpu": "3", "memory": "900Mi", "ephemeral-storage": "900", "pods": "110"} {
		if q := got[name]; q.Cmp(resource.MustParse(want)) != 0 {
			t.Errorf("%s: %s, want %s", name, q.String(), want)
		}
	}
	if _, err := allocatable(capacity, map[string]string{"cpu": "lots"}, nil, nil); err == nil {
		t.Error("an unreadable reservation is accepted")
	}
}

func TestChooseInstance(t *testing.T) {
	terminated := func(id string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: id}}
	}
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	for name, c := range map[string]struct {
		now, last corev1.ContainerState
		previous  bool
		want      string
	}{
		"running":                {now: running, want: "now"},
		"previous":               {now: running, last: terminated("old"), previous: true, want: "old"},
		"no previous":            {now: running, previous: true, want: `previous terminated container "c" in pod "p" not found`},
		"over":                   {now: terminated("done"), want: "done"},
		"crash loop":             {now: waiting("CrashLoopBackOff"), last: terminated("old"), want: "old"},
		"creating":               {now: waiting("ContainerCreating"), want: `container "c" in pod "p" is waiting to start: ContainerCreating`},
		"cannot pull":            {now: waiting("ErrImagePull"), want: `container "c" in pod "p" is waiting to start: image can't be pulled`},
		"tries to pull":          {now: waiting("ImagePullBackOff"), want: `container "c" in pod "p" is waiting to start: trying and failing to pull image`},
		"over before it existed": {now: terminated(""), want: `container "c" in pod "p" is terminated`},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{}
			pod.Name = "p"
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", ContainerID: "now", State: c.now, LastTerminationState: c.last}}
			got, err := chooseInstance(pod, "c", c.previous)
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if _, err := chooseInstance(&corev1.Pod{}, "other", false); err == nil {
		t.Error("a container that is not there was found")
	}
}
