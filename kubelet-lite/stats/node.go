package stats

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func (p *Provider) node() (*statsapi.NodeStats, error) {
	now := p.cfg.Clock.Now()
	stats := &statsapi.NodeStats{NodeName: p.cfg.NodeName, StartTime: metav1.NewTime(p.start)}
	info, err := memInfo()
	if err != nil {
		return nil, fmt.Errorf("node memory: %w", err)
	}
	group := func(controller string) string {
		if _, err := os.Stat(filepath.Join(p.cfg.CgroupRoot, "cgroup.controllers")); err == nil {
			return p.cfg.CgroupRoot
		}
		return filepath.Join(p.cfg.CgroupRoot, controller)
	}
	stats.Memory = nodeMemory(info, group("memory"), now)
	if stats.CPU, err = p.groupCPU("node", group("cpuacct"), now); err != nil {
		return nil, fmt.Errorf("node CPU: %w", err)
	}
	addPressure(stats, metav1.NewTime(now))
	if stats.Fs, err = fileSystem(p.cfg.RootDir, now); err != nil {
		return nil, fmt.Errorf("node file system: %w", err)
	}
	stats.Rlimit = processLimit(now)
	swapUsed, swapFree := info["SwapTotal"]-info["SwapFree"], info["SwapFree"]
	stats.Swap = &statsapi.SwapStats{Time: metav1.NewTime(now), SwapUsageBytes: &swapUsed, SwapAvailableBytes: &swapFree}
	stats.SystemContainers = p.systemContainers(info, now)
	return stats, nil
}

// systemContainers has one entry, the group that holds all pods; eviction compares it with the node's allocatable memory.
func (p *Provider) systemContainers(info map[string]uint64, now time.Time) []statsapi.ContainerStats {
	if p.cfg.PodsCgroup == nil {
		return nil
	}
	pods := statsapi.ContainerStats{Name: statsapi.SystemContainerPods, StartTime: metav1.NewTime(p.start)}
	if dir, ok := p.cfg.PodsCgroup("memory"); ok {
		pods.Memory = nodeMemory(info, dir, now)
	}
	if dir, ok := p.cfg.PodsCgroup("cpuacct"); ok {
		if cpu, err := p.groupCPU("pods", dir, now); err == nil {
			pods.CPU = cpu
		}
	}
	return []statsapi.ContainerStats{pods}
}

// nodeMemory prefers the cgroup's own account, which is that of the node even where the node is itself a container. The root
// group of cgroup v2 has none; then the machine's is the node's.
func nodeMemory(info map[string]uint64, dir string, now time.Time) *statsapi.MemoryStats {
	total := info["MemTotal"]
	usage, err := firstNumber(dir, "memory.current", "memory.usage_in_bytes")
	stat := keyValues(filepath.Join(dir, "memory.stat"))
	inactive, rss := stat["inactive_file"], stat["anon"]
	if v, ok := stat["total_inactive_file"]; ok {
		inactive, rss = v, stat["total_rss"]
	}
	if err != nil {
		usage, inactive, rss = total-info["MemFree"], info["MemAvailable"]-min(info["MemFree"], info["MemAvailable"]), info["AnonPages"]
	}
	if limit, err := firstNumber(dir, "memory.max", "memory.limit_in_bytes"); err == nil && limit < total {
		total = limit
	}
	working := usage - min(inactive, usage)
	available := total - min(working, total)
	faults, major := max(stat["pgfault"], stat["total_pgfault"]), max(stat["pgmajfault"], stat["total_pgmajfault"])
	return &statsapi.MemoryStats{
		Time: metav1.NewTime(now), UsageBytes: &usage, WorkingSetBytes: &working, AvailableBytes: &available, RSSBytes: &rss,
		PageFaults: &faults, MajorPageFaults: &major,
	}
}

func (p *Provider) groupCPU(key, dir string, now time.Time) (*statsapi.CPUStats, error) {
	nanos, err := firstNumber(dir, "cpuacct.usage")
	if err != nil {
		micros, ok := keyValues(filepath.Join(dir, "cpu.stat"))["usage_usec"]
		if !ok {
			return nil, fmt.Errorf("no account of CPU time in %s", dir)
		}
		nanos = micros * 1000
	}
	return &statsapi.CPUStats{Time: metav1.NewTime(now), UsageCoreNanoSeconds: &nanos, UsageNanoCores: p.rate(key, now, nanos)}, nil
}

// firstNumber reads the first of the files that exists.
func firstNumber(dir string, names ...string) (uint64, error) {
	err := os.ErrNotExist
	for _, name := range names {
		var data []byte
		if data, err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			continue
		}
		return strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	}
	return 0, err
}

// keyValues reads a file of "name number" lines; a missing file has none.
func keyValues(path string) map[string]uint64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	out := map[string]uint64{}
	for line := range strings.Lines(string(data)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(number, 10, 64); err == nil {
			out[name] = n
		}
	}
	return out
}

// memInfo is /proc/meminfo in bytes.
func memInfo() (map[string]uint64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	out := parseMemInfo(string(data))
	if out["MemTotal"] == 0 {
		return nil, fmt.Errorf("/proc/meminfo: %w", errShort)
	}
	return out, nil
}

func parseMemInfo(text string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
			out[strings.TrimSuffix(fields[0], ":")] = n * 1024
		}
	}
	return out
}

// processLimit compares the processes there are with the most that the kernel gives out.
func processLimit(now time.Time) *statsapi.RlimitStats {
	stats := &statsapi.RlimitStats{Time: metav1.NewTime(now)}
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err == nil && (stats.MaxPID == nil || n < *stats.MaxPID) {
			stats.MaxPID = &n
		}
	}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		if running, ok := parseProcessCount(string(data)); ok {
			stats.NumOfRunningProcesses = &running
		}
	}
	return stats
}

// parseProcessCount takes 345 from "0.20 0.18 0.12 1/345 11206".
func parseProcessCount(loadavg string) (int64, bool) {
	fields := strings.Fields(loadavg)
	if len(fields) < 4 {
		return 0, false
	}
	_, total, _ := strings.Cut(fields[3], "/")
	n, err := strconv.ParseInt(total, 10, 64)
	return n, err == nil
}

// bootTime is when this machine, or the container that is the node, was started.
func bootTime(now time.Time) time.Time {
	if info, err := os.Stat("/proc/1"); err == nil {
		return info.ModTime()
	}
	return now
}
