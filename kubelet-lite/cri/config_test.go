package cri

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/kubelet-lite/cgroups"
)

func testNode(t *testing.T) *Node {
	t.Helper()
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("# host\nnameserver 192.0.2.53\nsearch old.example\nsearch host.example.\noptions timeout:1 rotate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Node{RootDir: "/root", PodLogsRoot: "/logs", ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local", ResolvConf: resolv, MemoryCapacity: 8 << 30}
}

func testPod(edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"app": "x"}},
		Spec:       corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, e := range edits {
		e(p)
	}
	return p
}

func TestDNSConfig(t *testing.T) {
	cluster := []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "host.example"}
	for name, c := range map[string]struct {
		edit func(*corev1.Pod)
		want *runtimeapi.DNSConfig
	}{
		"cluster first":                   {func(*corev1.Pod) {}, &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: cluster, Options: []string{"ndots:5"}}},
		"cluster first, on the host":      {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"host.example"}, Options: []string{"timeout:1", "rotate"}}},
		"cluster first with host network": {func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet }, &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: cluster, Options: []string{"ndots:5"}}},
		"default":                         {func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault }, &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"host.example"}, Options: []string{"timeout:1", "rotate"}}},
		"none": {func(p *corev1.Pod) {
			p.Spec.DNSPolicy, p.Spec.DNSConfig = corev1.DNSNone, &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"a"}, Options: []corev1.PodDNSConfigOption{{Name: "edns0"}}}
		}, &runtimeapi.DNSConfig{Servers: []string{"1.1.1.1"}, Searches: []string{"a"}, Options: []string{"edns0"}}},
		"own options win": {func(p *corev1.Pod) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Searches: []string{"cluster.local", "b"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("2")}}}
		}, &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: append(cluster[:4:4], "b"), Options: []string{"ndots:2"}}},
		"three servers at most": {func(p *corev1.Pod) { p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1", "2", "3"}} }, &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10", "1", "2"}, Searches: cluster, Options: []string{"ndots:5"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := testNode(t).DNSConfig(testPod(c.edit))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want.String(), got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("a", 62) + "-b"
	for name, c := range map[string]struct {
		edit func(*corev1.Pod)
		want string
	}{
		"name":           {func(*corev1.Pod) {}, "p"},
		"own":            {func(p *corev1.Pod) { p.Spec.Hostname = "h" }, "h"},
		"cut to a label": {func(p *corev1.Pod) { p.Name = long }, strings.Repeat("a", 62)},
		"as FQDN":        {func(p *corev1.Pod) { p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = "s", new(true) }, "p.s.ns.svc.cluster.local"},
		"override":       {func(p *corev1.Pod) { p.Spec.HostnameOverride = new("o.example") }, "o.example"},
		"FQDN is too long": {func(p *corev1.Pod) {
			p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = strings.Repeat("s", 50), new(true)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := testNode(t).Hostname(testPod(c.edit))
			if got != c.want || (err != nil) != (c.want == "") {
				t.Errorf("hostname %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestVerifyNonRoot(t *testing.T) {
	root, other := ImageUser{UID: new(int64(0))}, ImageUser{UID: new(int64(7))}
	for name, c := range map[string]struct {
		sc    corev1.SecurityContext
		image ImageUser
		ok    bool
	}{
		"no demand":         {corev1.SecurityContext{}, root, true},
		"image is root":     {corev1.SecurityContext{RunAsNonRoot: new(true)}, root, false},
		"image is not root": {corev1.SecurityContext{RunAsNonRoot: new(true)}, other, true},
		"image has a name":  {corev1.SecurityContext{RunAsNonRoot: new(true)}, ImageUser{Name: "www"}, false},
		"spec says root":    {corev1.SecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(0))}, other, false},
		"spec overrides":    {corev1.SecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(5))}, root, true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := verifyNonRoot(&c.sc, c.image); (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestContainerConfigSurvivesTheRuntime(t *testing.T) {
	pod := testPod(func(p *corev1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = new(int64(12))
		c := &p.Spec.Containers[0]
		c.TerminationMessagePath, c.TerminationMessagePolicy = "/dev/termination-log", corev1.TerminationMessageReadFile
		c.Lifecycle = &corev1.Lifecycle{StopSignal: new(corev1.SIGRTMINPLUS1), PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3}}}
	})
	config, err := testNode(t).ContainerConfig(pod, &pod.Spec.Containers[0], Instance{Attempt: 4, BackOff: 40 * time.Second, ImageRef: "sha"})
	if err != nil {
		t.Fatal(err)
	}
	got := containerFrom(&runtimeapi.ContainerStatus{Id: "x", Labels: config.Labels, Annotations: config.Annotations, StopSignal: config.StopSignal, Image: config.Image}, "s")
	want := &Container{
		ID: "x", Name: "c", State: Created, SandboxID: "s", Image: "i", Hash: Hash(&pod.Spec.Containers[0]), RestartCount: 4, BackOff: 40 * time.Second,
		MessagePath: "/dev/termination-log", MessagePolicy: corev1.TerminationMessageReadFile, PreStop: pod.Spec.Containers[0].Lifecycle.PreStop, GracePeriod: 12,
		StopSignal: runtimeapi.Signal_SIGNAL_SIGRTMINPLUS1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what comes back (-want +got):\n%s", diff)
	}
	if s := SignalName(got.StopSignal); s == nil || *s != corev1.SIGRTMINPLUS1 {
		t.Errorf("stop signal %v", s)
	}
	if config.LogPath != "c/4.log" {
		t.Errorf("log path %s", config.LogPath)
	}
}

func TestOOMScoreAdj(t *testing.T) {
	memory := func(request, limit string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			r := &p.Spec.Containers[0].Resources
			r.Requests, r.Limits = corev1.ResourceList{}, corev1.ResourceList{}
			for list, text := range map[*corev1.ResourceList]string{&r.Requests: request, &r.Limits: limit} {
				if text != "" {
					(*list)[corev1.ResourceMemory], (*list)[corev1.ResourceCPU] = resource.MustParse(text), resource.MustParse("1")
				}
			}
		}
	}
	for name, c := range map[string]struct {
		edit func(*corev1.Pod)
		want int64
	}{
		"best effort":         {func(*corev1.Pod) {}, 1000},
		"guaranteed":          {memory("1Gi", "1Gi"), -997},
		"an eighth of memory": {memory("1Gi", ""), 875},
		"almost nothing":      {memory("1", ""), 999},
		"all of it":           {memory("8Gi", ""), 3},
		"critical":            {func(p *corev1.Pod) { p.Spec.Priority = new(int32(cgroups.NodeCriticalPriority)) }, -997},
	} {
		t.Run(name, func(t *testing.T) {
			pod := testPod(c.edit)
			if got := OOMScoreAdj(pod, &pod.Spec.Containers[0], 8<<30); got != c.want {
				t.Errorf("score %d, want %d", got, c.want)
			}
		})
	}
}

func TestUserNamespaces(t *testing.T) {
	dir := t.TempDir()
	u := NewUserNamespaces(dir, 2)
	a, errA := u.Mapping("a")
	b, errB := u.Mapping("b")
	if errA != nil || errB != nil || a.HostId == b.HostId || a.HostId < rangeSize {
		t.Fatalf("ranges %v %v, %v %v", a, b, errA, errB)
	}
	if _, err := u.Mapping("c"); err == nil {
		t.Error("a third range out of two")
	}
	again, err := NewUserNamespaces(dir, 2).Mapping("b")
	if err != nil || again.HostId != b.HostId {
		t.Errorf("after a restart %v, %v; want %v", again, err, b)
	}
	u.Release("a")
	if c, err := u.Mapping("c"); err != nil || c.HostId != a.HostId {
		t.Errorf("a released range is not used again: %v, %v", c, err)
	}
}

// A container with CPUs of its own runs there, near its memory, and nothing limits its time; others share the rest.
func TestPlace(t *testing.T) {
	node := testNode(t)
	node.Exclusive = func(types.UID) bool { return true }
	node.Place = func(_ types.UID, container string) (string, string, bool) {
		if container == "own" {
			return "2-3", "1", true
		}
		return "0-1", "", false
	}
	pod := testPod(func(p *corev1.Pod) {
		limits := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
		p.Spec.Containers = []corev1.Container{{Name: "own", Resources: corev1.ResourceRequirements{Limits: limits}}, {Name: "other", Resources: corev1.ResourceRequirements{Limits: limits}}}
	})
	own, other := node.Resources(pod, &pod.Spec.Containers[0]), node.Resources(pod, &pod.Spec.Containers[1])
	if own.CpusetCpus != "2-3" || own.CpusetMems != "1" || own.CpuQuota != -1 || own.CpuShares != 2048 {
		t.Errorf("with its own CPUs: %v", own)
	}
	if other.CpusetCpus != "0-1" || other.CpusetMems != "" || other.CpuQuota != 200000 {
		t.Errorf("with others: %v", other)
	}
	if sandbox, err := node.SandboxConfig(pod, 0); err != nil || sandbox.Linux.Resources.CpuQuota != -1 {
		t.Errorf("the pod: %v, %v", sandbox.GetLinux().GetResources(), err)
	}
}

// A container without a limit of its own is bounded by its pod's.
func TestLimitOfThePod(t *testing.T) {
	limits := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Resources:  &corev1.ResourceRequirements{Limits: limits("80m", "95Mi")},
		Containers: []corev1.Container{{Name: "none"}, {Name: "own", Resources: corev1.ResourceRequirements{Limits: limits("20m", "10Mi")}}},
	}}
	node := &Node{}
	for i, want := range []struct{ quota, memory int64 }{{8000, 95 << 20}, {2000, 10 << 20}} {
		got := node.Resources(pod, &pod.Spec.Containers[i])
		if got.CpuQuota != want.quota || got.MemoryLimitInBytes != want.memory {
			t.Errorf("container %s: quota %d, memory %d, want %+v", pod.Spec.Containers[i].Name, got.CpuQuota, got.MemoryLimitInBytes, want)
		}
	}
	pod.Spec.Resources = nil
	if got := node.Resources(pod, &pod.Spec.Containers[0]); got.CpuQuota != 0 || got.MemoryLimitInBytes != 0 {
		t.Errorf("without any limit: quota %d, memory %d", got.CpuQuota, got.MemoryLimitInBytes)
	}
}
