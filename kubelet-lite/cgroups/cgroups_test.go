package cgroups

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func pod(resources ...corev1.ResourceRequirements) *corev1.Pod {
	p := &corev1.Pod{}
	p.UID = "test-uid"
	for _, r := range resources {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Resources: r})
	}
	return p
}

func needs(requests, limits corev1.ResourceList) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: requests, Limits: limits}
}

func TestPodLimits(t *testing.T) {
	for name, tc := range map[string]struct {
		pod  *corev1.Pod
		qos  corev1.PodQOSClass
		v1   map[string]string
		path string
	}{
		"best effort": {
			pod: pod(needs(nil, nil)), qos: corev1.PodQOSBestEffort, path: "/kubepods/besteffort/podtest-uid",
			v1: map[string]string{"cpu.shares": "2", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1", "memory.limit_in_bytes": "-1"},
		},
		"guaranteed": {
			pod: pod(needs(list("500m", "64Mi"), list("500m", "64Mi")), needs(list("1", "64Mi"), list("1", "64Mi"))), qos: corev1.PodQOSGuaranteed, path: "/kubepods/podtest-uid",
			v1: map[string]string{"cpu.shares": "1536", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000", "memory.limit_in_bytes": "134217728"},
		},
		"one container without a memory limit": {
			pod: pod(needs(list("100m", ""), list("200m", "64Mi")), needs(list("100m", ""), list("200m", ""))), qos: corev1.PodQOSBurstable, path: "/kubepods/burstable/podtest-uid",
			v1: map[string]string{"cpu.shares": "204", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "40000", "memory.limit_in_bytes": "-1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := QoS(tc.pod); got != tc.qos {
				t.Errorf("QoS %s, want %s", got, tc.qos)
			}
			if diff := cmp.Diff(tc.v1, podLimits(tc.pod, Config{}).values(false)); diff != "" {
				t.Error(diff)
			}
			m := &Manager{driver: cgroupfs{}}
			if got := m.PodParent(tc.pod); got != tc.path {
				t.Errorf("parent %s, want %s", got, tc.path)
			}
		})
	}
}

func TestV2Values(t *testing.T) {
	want := map[string]string{"cpu.weight": "39", "cpu.max": "50000 100000", "memory.max": "max", "pids.max": "100", "hugetlb.2MB.max": "0"}
	got := limits{shares: 1024, quotaUS: 50000, memory: -1, pids: 100, huge: map[string]int64{"2MB": 0}}.values(true)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSliceNames(t *testing.T) {
	s := &systemd{}
	g := group{"kubepods", "burstable", "poda-b"}
	if got, want := s.dir(g), "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda_b.slice"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if uid, ok := s.uid(s.parent(g)); !ok || uid != "a-b" {
		t.Errorf("uid %q %v", uid, ok)
	}
}

// TestRealTree makes a pod's group under a root of its own, runs a process in it and removes all. systemd must know of what its driver
// makes, or it would undo that when it reads its units again.
func TestRealTree(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups need root")
	}
	t.Run("cgroupfs", func(t *testing.T) { testRealTree(t, false, func() {}) })
	t.Run("systemd", func(t *testing.T) {
		if _, err := os.Stat("/run/systemd/system"); err != nil {
			t.Skip("there is no systemd")
		}
		testRealTree(t, true, func() {
			if out, err := exec.CommandContext(t.Context(), "systemctl", "daemon-reload").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		})
	})
}

func testRealTree(t *testing.T, systemd bool, disturb func()) {
	m, err := New(Config{Root: "/keelson-cgroups-test", PodPidsLimit: 50, EnforceAllocatable: true, Systemd: systemd})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := m.driver.remove(context.WithoutCancel(t.Context()), group{"keelson-cgroups-test"}); err != nil {
			t.Error(err)
		}
	})
	if err := m.EnsureRoot(list("2", "1Gi")); err != nil {
		t.Fatal(err)
	}
	p := pod(needs(list("100m", "32Mi"), list("200m", "64Mi")))
	for range 2 {
		if err := m.EnsurePod(p); err != nil {
			t.Fatal(err)
		}
	}
	disturb()
	file := "memory.limit_in_bytes"
	if m.V2() {
		file = "memory.max"
	}
	dir, _ := m.Directory("memory", p)
	if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || strings.TrimSpace(string(got)) != "67108864" {
		t.Fatalf("%s: %q %v", file, got, err)
	}
	pods, err := m.Pods()
	if diff := cmp.Diff(map[types.UID]struct{}{"test-uid": {}}, pods); diff != "" || err != nil {
		t.Error(diff, err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for _, mount := range m.tree.mounts() {
		if err := writeFile(filepath.Join(mount, m.driver.dir(m.podGroup(p.UID, QoS(p))), "cgroup.procs"), decimal(int64(cmd.Process.Pid))); err != nil {
			_ = cmd.Process.Kill()
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := m.RemovePod("test-uid"); err != nil {
			t.Error(err)
		}
	}
	if err := <-ended; err == nil {
		t.Error("the pod's process ended by itself")
	}
	if pods, _ := m.Pods(); len(pods) != 0 {
		t.Errorf("left: %v", pods)
	}
}
