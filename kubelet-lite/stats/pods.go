package stats

import (
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// defaultInterface is the name by which a pod knows its own network.
const defaultInterface = "eth0"

func (p *Provider) pods(sandboxes []*runtimeapi.PodSandboxStats, runtimeFs *statsapi.RuntimeStats) []statsapi.PodStats {
	specs := map[string]*corev1.Pod{}
	for _, pod := range p.cfg.Pods() {
		specs[string(pod.UID)] = pod
	}
	out := make([]statsapi.PodStats, 0, len(sandboxes))
	seen := map[string]bool{}
	for _, s := range sandboxes {
		meta := s.GetAttributes().GetMetadata()
		// A pod may have a dead sandbox beside its live one; the runtime lists the newer first and measures only live ones.
		if s.GetLinux() == nil || meta == nil || seen[meta.Uid] {
			continue
		}
		seen[meta.Uid] = true
		out = append(out, p.pod(s, specs[meta.Uid], runtimeFs))
	}
	return out
}

func (p *Provider) pod(s *runtimeapi.PodSandboxStats, spec *corev1.Pod, runtimeFs *statsapi.RuntimeStats) statsapi.PodStats {
	meta, linux, now := s.Attributes.Metadata, s.Linux, p.cfg.Clock.Now()
	stats := statsapi.PodStats{
		PodRef:  statsapi.PodReference{Name: meta.Name, Namespace: meta.Namespace, UID: meta.Uid},
		CPU:     p.cpu("pod/"+meta.Uid, linux.Cpu, now),
		Memory:  memory(linux.Memory, now),
		IO:      p.io(linux.Io),
		Network: network(linux.Network, now),
	}
	if linux.Process != nil {
		stats.ProcessStats = &statsapi.ProcessStats{ProcessCount: value(linux.Process.ProcessCount)}
	}
	logs := filepath.Join(p.cfg.LogDir, strings.Join([]string{meta.Namespace, meta.Name, meta.Uid}, "_"))
	for _, c := range linux.Containers {
		stats.Containers = append(stats.Containers, p.container(c, spec, logs, runtimeFs))
	}
	if spec != nil {
		if spec.Status.StartTime != nil {
			stats.StartTime = *spec.Status.StartTime
		}
		p.volumes(&stats, spec, logs)
	}
	stats.Swap = podSwap(stats.Containers)
	return stats
}

func (p *Provider) container(c *runtimeapi.ContainerStats, spec *corev1.Pod, logs string, runtimeFs *statsapi.RuntimeStats) statsapi.ContainerStats {
	name, now := c.GetAttributes().GetMetadata().GetName(), p.cfg.Clock.Now()
	stats := statsapi.ContainerStats{
		Name:   name,
		CPU:    p.cpu("container/"+c.GetAttributes().GetId(), c.Cpu, now),
		Memory: memory(c.Memory, now),
		IO:     p.io(c.Io),
	}
	if c.Swap != nil {
		stats.Swap = &statsapi.SwapStats{Time: timeOf(c.Swap.Timestamp, now), SwapUsageBytes: value(c.Swap.SwapUsageBytes), SwapAvailableBytes: value(c.Swap.SwapAvailableBytes)}
	}
	if c.WritableLayer != nil {
		root := &statsapi.FsStats{Time: timeOf(c.WritableLayer.Timestamp, now), UsedBytes: value(c.WritableLayer.UsedBytes), InodesUsed: value(c.WritableLayer.InodesUsed)}
		if runtimeFs != nil {
			root.AvailableBytes, root.CapacityBytes = runtimeFs.ContainerFs.AvailableBytes, runtimeFs.ContainerFs.CapacityBytes
			root.InodesFree, root.Inodes = runtimeFs.ContainerFs.InodesFree, runtimeFs.ContainerFs.Inodes
		}
		stats.Rootfs = root
	}
	stats.Logs = p.directory(filepath.Join(logs, name))
	if spec != nil {
		stats.StartTime = containerStart(spec, name)
	}
	return stats
}

func containerStart(pod *corev1.Pod, name string) metav1.Time {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.Name == name && c.State.Running != nil {
				return c.State.Running.StartedAt
			}
		}
	}
	return metav1.Time{}
}

func (p *Provider) cpu(key string, c *runtimeapi.CpuUsage, now time.Time) *statsapi.CPUStats {
	if c == nil {
		return nil
	}
	at := timeOf(c.Timestamp, now)
	stats := &statsapi.CPUStats{Time: at, UsageCoreNanoSeconds: value(c.UsageCoreNanoSeconds), UsageNanoCores: value(c.UsageNanoCores), PSI: psi(c.Psi)}
	if stats.UsageCoreNanoSeconds != nil {
		if rate := p.rate(key, at.Time, *stats.UsageCoreNanoSeconds); stats.UsageNanoCores == nil || *stats.UsageNanoCores == 0 {
			stats.UsageNanoCores = rate
		}
	}
	return stats
}

func memory(m *runtimeapi.MemoryUsage, now time.Time) *statsapi.MemoryStats {
	if m == nil {
		return nil
	}
	stats := &statsapi.MemoryStats{
		Time: timeOf(m.Timestamp, now), WorkingSetBytes: value(m.WorkingSetBytes), AvailableBytes: value(m.AvailableBytes),
		UsageBytes: value(m.UsageBytes), RSSBytes: value(m.RssBytes), PageFaults: value(m.PageFaults), MajorPageFaults: value(m.MajorPageFaults), PSI: psi(m.Psi),
	}
	if stats.AvailableBytes != nil && *stats.AvailableBytes == 0 {
		stats.AvailableBytes = nil // without a limit there is no such number
	}
	return stats
}

func network(n *runtimeapi.NetworkUsage, now time.Time) *statsapi.NetworkStats {
	if n == nil {
		return nil
	}
	stats := &statsapi.NetworkStats{Time: timeOf(n.Timestamp, now)}
	add := func(i *runtimeapi.NetworkInterfaceUsage) {
		if i == nil {
			return
		}
		one := statsapi.InterfaceStats{Name: i.Name, RxBytes: value(i.RxBytes), RxErrors: value(i.RxErrors), TxBytes: value(i.TxBytes), TxErrors: value(i.TxErrors)}
		stats.Interfaces = append(stats.Interfaces, one)
		if i.Name == defaultInterface || stats.Name == "" {
			stats.InterfaceStats = one
		}
	}
	add(n.DefaultInterface)
	for _, i := range n.Interfaces {
		if i.Name != n.GetDefaultInterface().GetName() {
			add(i)
		}
	}
	return stats
}

func podSwap(containers []statsapi.ContainerStats) *statsapi.SwapStats {
	var total uint64
	var swap *statsapi.SwapStats
	for _, c := range containers {
		if c.Swap != nil && c.Swap.SwapUsageBytes != nil {
			total += *c.Swap.SwapUsageBytes
			swap = &statsapi.SwapStats{Time: c.Swap.Time, SwapUsageBytes: &total}
		}
	}
	return swap
}

// volumes adds what the pod's volumes use, and what counts as its ephemeral storage: logs, writable layers, and volumes on the
// node's disk that die with the pod.
func (p *Provider) volumes(stats *statsapi.PodStats, spec *corev1.Pod, logs string) {
	podDir := filepath.Join(p.cfg.RootDir, "pods", string(spec.UID))
	ephemeral := p.directory(logs)
	for _, c := range stats.Containers {
		addUsage(ephemeral, c.Rootfs)
	}
	for i := range spec.Spec.Volumes {
		v := &spec.Spec.Volumes[i]
		dir, local := volumeDir(podDir, v)
		if dir == "" {
			continue
		}
		fs := p.directory(dir)
		if fs == nil {
			continue
		}
		stats.VolumeStats = append(stats.VolumeStats, statsapi.VolumeStats{FsStats: *fs, Name: v.Name})
		if local {
			addUsage(ephemeral, fs)
		}
	}
	p.claims(stats, spec, podDir)
	stats.EphemeralStorage = ephemeral
}

// volumeDir finds a volume on disk, and says whether it takes up the node's own disk.
func volumeDir(podDir string, v *corev1.Volume) (dir string, local bool) {
	in := func(plugin string) string { return filepath.Join(podDir, "volumes", "kubernetes.io~"+plugin, v.Name) }
	switch {
	case v.EmptyDir != nil:
		return in("empty-dir"), v.EmptyDir.Medium == corev1.StorageMediumDefault
	case v.ConfigMap != nil:
		return in("configmap"), true
	case v.Secret != nil:
		return in("secret"), false
	case v.DownwardAPI != nil:
		return in("downward-api"), false
	case v.Projected != nil:
		return in("projected"), false
	}
	return "", false
}

// claims are file systems of their own: the kernel knows what they hold.
func (p *Provider) claims(stats *statsapi.PodStats, spec *corev1.Pod, podDir string) {
	dirs, err := filepath.Glob(filepath.Join(podDir, "volumes", "kubernetes.io~csi", "*", "mount"))
	if err != nil || len(dirs) == 0 {
		return
	}
	byVolume := claimNames(dirs)
	for _, v := range spec.Spec.Volumes {
		if v.PersistentVolumeClaim == nil || byVolume[v.Name] == "" {
			continue
		}
		fs, err := fileSystem(byVolume[v.Name], p.cfg.Clock.Now())
		if err != nil {
			continue // it may just have been unmounted
		}
		ref := &statsapi.PVCReference{Name: v.PersistentVolumeClaim.ClaimName, Namespace: spec.Namespace}
		stats.VolumeStats = append(stats.VolumeStats, statsapi.VolumeStats{FsStats: *fs, Name: v.Name, PVCRef: ref})
	}
}

func addUsage(total, part *statsapi.FsStats) {
	if total == nil || part == nil {
		return
	}
	sum := func(a, b *uint64) *uint64 {
		if a == nil || b == nil {
			return a
		}
		n := *a + *b
		return &n
	}
	total.UsedBytes, total.InodesUsed = sum(total.UsedBytes, part.UsedBytes), sum(total.InodesUsed, part.InodesUsed)
}
