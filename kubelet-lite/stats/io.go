package stats

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// psi is what the runtime tells of pressure: how long tasks have waited, in microseconds, as upstream hands it on.
func psi(from *runtimeapi.PsiStats) *statsapi.PSIStats {
	if from == nil {
		return nil
	}
	data := func(d *runtimeapi.PsiData) statsapi.PSIData {
		return statsapi.PSIData{Total: d.GetTotal(), Avg10: d.GetAvg10(), Avg60: d.GetAvg60(), Avg300: d.GetAvg300()}
	}
	return &statsapi.PSIStats{Full: data(from.Full), Some: data(from.Some)}
}

func (p *Provider) io(from *runtimeapi.IoUsage) *statsapi.IOStats {
	if from == nil || from.Psi == nil {
		return nil
	}
	return &statsapi.IOStats{Time: timeOf(from.Timestamp, p.cfg.Clock.Now()), PSI: psi(from.Psi)}
}

// nodePressure reads the kernel's own account, which the node has whatever the version of its control groups; nil if there is none.
func nodePressure(proc, resource string) *statsapi.PSIStats {
	data, err := os.ReadFile(filepath.Join(proc, "pressure", resource))
	if err != nil {
		return nil
	}
	out := &statsapi.PSIStats{}
	for line := range strings.Lines(string(data)) { // some avg10=0.00 avg60=0.00 avg300=0.00 total=0
		fields := strings.Fields(line)
		into := &out.Some
		if len(fields) > 0 && fields[0] == "full" {
			into = &out.Full
		}
		for _, f := range fields {
			name, text, _ := strings.Cut(f, "=")
			number, err := strconv.ParseFloat(text, 64)
			if target := map[string]*float64{"avg10": &into.Avg10, "avg60": &into.Avg60, "avg300": &into.Avg300}[name]; err == nil && target != nil {
				*target = number
			}
			if name == "total" && err == nil {
				into.Total = uint64(number)
			}
		}
	}
	return out
}

// addPressure fills in the node's pressure.
func addPressure(stats *statsapi.NodeStats, now metav1.Time) {
	stats.CPU.PSI, stats.Memory.PSI = nodePressure("/proc", "cpu"), nodePressure("/proc", "memory")
	if io := nodePressure("/proc", "io"); io != nil {
		stats.IO = &statsapi.IOStats{Time: now, PSI: io}
	}
}

// Device is how much a container has read from a block device and written to it.
type Device struct {
	Name                                 string // /dev/sda
	ReadBytes, WriteBytes, Reads, Writes uint64
}

// DiskIO is what a container has done with block devices, as its control group counts it. It is empty if it has done nothing.
func (p *Provider) DiskIO(pod *corev1.Pod, containerID string) []Device {
	if p.cfg.PodCgroup == nil || containerID == "" {
		return nil
	}
	dir, ok := p.cfg.PodCgroup("blkio", pod)
	if !ok {
		return nil
	}
	groups, err := filepath.Glob(filepath.Join(dir, "*"+containerID+"*"))
	if err != nil || len(groups) == 0 {
		return nil
	}
	return diskIO(groups[0], "/sys")
}

// diskIO reads either version's files.
func diskIO(group, sys string) (out []Device) {
	found := map[string]*Device{}
	device := func(number string) *Device {
		if found[number] == nil {
			name := number
			if link, err := os.Readlink(filepath.Join(sys, "dev/block", number)); err == nil {
				name = "/dev/" + filepath.Base(link)
			}
			found[number] = &Device{Name: name}
		}
		return found[number]
	}
	for _, file := range []string{"io.stat", "blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"} {
		data, err := os.ReadFile(filepath.Join(group, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) < 2 || !strings.Contains(fields[0], ":") {
				continue
			}
			d := device(fields[0])
			if file != "io.stat" { // 8:0 Read 4096
				fields = []string{"", file + " " + fields[1] + "=" + fields[len(fields)-1]}
			}
			for _, f := range fields[1:] { // 8:0 rbytes=4096 wbytes=0 rios=1 wios=0
				name, text, _ := strings.Cut(f, "=")
				target := map[string]*uint64{
					"rbytes": &d.ReadBytes, "wbytes": &d.WriteBytes, "rios": &d.Reads, "wios": &d.Writes,
					"blkio.throttle.io_service_bytes Read": &d.ReadBytes, "blkio.throttle.io_service_bytes Write": &d.WriteBytes,
					"blkio.throttle.io_serviced Read": &d.Reads, "blkio.throttle.io_serviced Write": &d.Writes,
				}[name]
				if n, err := strconv.ParseUint(text, 10, 64); err == nil && target != nil {
					*target = n
				}
			}
		}
	}
	for _, d := range found {
		out = append(out, *d)
	}
	return out
}
