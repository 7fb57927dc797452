package server

import (
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"keelson.dev/kubelet-lite/stats"
)

func (s *Server) metrics() http.Handler {
	if s.cfg.Metrics != nil {
		return s.cfg.Metrics
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own := prometheus.NewRegistry()
		own.MustRegister(collector{func(add func(family, time.Time, float64, ...string)) {
			s.counts(add)
			s.volumes(r, add)
		}})
		promhttp.HandlerFor(prometheus.Gatherers{legacyregistry.DefaultGatherer, own}, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
	})
}

// counts tells of pods and containers by what the API is told of them.
func (s *Server) counts(add emitter) {
	var (
		node       = gauge("kubelet_node_name", "The node's name. The count is always 1.", "node")
		pods       = gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox")
		containers = gauge("kubelet_running_containers", "Number of containers currently running", "container_state")
	)
	running, states := 0.0, map[string]float64{}
	for _, pod := range s.cfg.Pods.Pods() {
		if pod.Status.Phase == corev1.PodRunning {
			running++
		}
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
			switch {
			case c.State.Running != nil:
				states["running"]++
			case c.State.Terminated != nil:
				states["exited"]++
			case c.ContainerID != "":
				states["created"]++
			}
		}
	}
	add(node, time.Time{}, 1, s.cfg.NodeName)
	add(pods, time.Time{}, running)
	for state, n := range states {
		add(containers, time.Time{}, n, state)
	}
}

// volumes tells how full the claims' volumes are.
func (s *Server) volumes(r *http.Request, add emitter) {
	if s.cfg.Summary == nil {
		return
	}
	stats, err := s.cfg.Summary(r.Context())
	if err != nil {
		klog.FromContext(r.Context()).Error(err, "Volumes could not be measured")
		return
	}
	metric := func(name, help string) family {
		return gauge("kubelet_volume_stats_"+name, help, "namespace", "persistentvolumeclaim")
	}
	var (
		capacity  = metric("capacity_bytes", "Capacity in bytes of the volume")
		available = metric("available_bytes", "Number of available bytes in the volume")
		used      = metric("used_bytes", "Number of used bytes in the volume")
		inodes    = metric("inodes", "Maximum number of inodes in the volume")
		free      = metric("inodes_free", "Number of free inodes in the volume")
		taken     = metric("inodes_used", "Number of used inodes in the volume")
	)
	seen := map[statsapi.PVCReference]bool{} // pods share claims
	for _, pod := range stats.Pods {
		for _, v := range pod.VolumeStats {
			if v.PVCRef == nil || seen[*v.PVCRef] {
				continue
			}
			seen[*v.PVCRef] = true
			for f, value := range map[family]*uint64{
				capacity: v.CapacityBytes, available: v.AvailableBytes, used: v.UsedBytes, inodes: v.Inodes, free: v.InodesFree, taken: v.InodesUsed,
			} {
				add.maybe(f, time.Time{}, value, 1, v.PVCRef.Namespace, v.PVCRef.Name)
			}
		}
	}
}

func (s *Server) probeMetrics() http.Handler {
	if s.cfg.ProbeMetrics != nil {
		return s.cfg.ProbeMetrics
	}
	return promhttp.HandlerFor(prometheus.NewRegistry(), promhttp.HandlerOpts{})
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	stats, ok := s.currentStats(w, r)
	if !ok {
		return
	}
	if only, _ := strconv.ParseBool(r.URL.Query().Get("only_cpu_and_memory")); only {
		stats = cpuAndMemory(stats)
	}
	writeJSON(w, r, stats)
}

func (s *Server) currentStats(w http.ResponseWriter, r *http.Request) (*statsapi.Summary, bool) {
	if s.cfg.Summary == nil {
		http.NotFound(w, r)
		return nil, false
	}
	stats, err := s.cfg.Summary(r.Context())
	if err != nil {
		klog.FromContext(r.Context()).Error(err, "Statistics could not be gathered")
		writeError(w, err)
		return nil, false
	}
	return stats, true
}

func cpuAndMemory(all *statsapi.Summary) *statsapi.Summary {
	out := &statsapi.Summary{Node: statsapi.NodeStats{
		NodeName: all.Node.NodeName, StartTime: all.Node.StartTime, CPU: all.Node.CPU, Memory: all.Node.Memory, Swap: all.Node.Swap,
	}}
	for _, c := range all.Node.SystemContainers {
		out.Node.SystemContainers = append(out.Node.SystemContainers, statsapi.ContainerStats{Name: c.Name, StartTime: c.StartTime, CPU: c.CPU, Memory: c.Memory})
	}
	for _, p := range all.Pods {
		pod := statsapi.PodStats{PodRef: p.PodRef, StartTime: p.StartTime, CPU: p.CPU, Memory: p.Memory, Swap: p.Swap}
		for _, c := range p.Containers {
			pod.Containers = append(pod.Containers, statsapi.ContainerStats{Name: c.Name, StartTime: c.StartTime, CPU: c.CPU, Memory: c.Memory, Swap: c.Swap})
		}
		out.Pods = append(out.Pods, pod)
	}
	return out
}

// family is one metric with its labels.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func counter(name, help string, labels ...string) family {
	return family{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

func gauge(name, help string, labels ...string) family {
	return family{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

// collector turns one summary into metrics; it lives for one request.
type collector struct {
	emit func(add func(f family, at time.Time, value float64, labels ...string))
}

func (collector) Describe(chan<- *prometheus.Desc) {} // unchecked: what there is depends on the pods

func (c collector) Collect(out chan<- prometheus.Metric) {
	c.emit(func(f family, at time.Time, value float64, labels ...string) {
		metric := prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
		if !at.IsZero() {
			metric = prometheus.NewMetricWithTimestamp(at, metric)
		}
		out <- metric
	})
}

func serve(w http.ResponseWriter, r *http.Request, c collector) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
}

type emitter func(f family, at time.Time, value float64, labels ...string)

// maybe emits a number that may be unknown, scaled to the metric's unit.
func (e emitter) maybe(f family, at time.Time, value *uint64, scale float64, labels ...string) {
	if value != nil {
		e(f, at, float64(*value)*scale, labels...)
	}
}

const nanos, micros = 1e-9, 1e-6

// resourceMetrics is what metrics-server reads.
func (s *Server) resourceMetrics(w http.ResponseWriter, r *http.Request) {
	stats, ok := s.currentStats(w, r)
	if !ok {
		return
	}
	inContainer := []string{"container", "pod", "namespace"}
	inPod := []string{"pod", "namespace"}
	var (
		nodeCPU         = counter("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds")
		nodeMemory      = gauge("node_memory_working_set_bytes", "Current working set of the node in bytes")
		nodeSwap        = gauge("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems")
		containerCPU    = counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", inContainer...)
		containerMemory = gauge("container_memory_working_set_bytes", "Current working set of the container in bytes", inContainer...)
		containerSwap   = gauge("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", inContainer...)
		containerStart  = gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds", inContainer...)
		podCPU          = counter("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", inPod...)
		podMemory       = gauge("pod_memory_working_set_bytes", "Current working set of the pod in bytes", inPod...)
		podSwap         = gauge("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", inPod...)
		scrapeError     = gauge("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")
	)
	use := func(add emitter, cpu *statsapi.CPUStats, memory *statsapi.MemoryStats, swap *statsapi.SwapStats, families [3]family, labels ...string) {
		if cpu != nil {
			add.maybe(families[0], cpu.Time.Time, cpu.UsageCoreNanoSeconds, nanos, labels...)
		}
		if memory != nil {
			add.maybe(families[1], memory.Time.Time, memory.WorkingSetBytes, 1, labels...)
		}
		if swap != nil {
			add.maybe(families[2], swap.Time.Time, swap.SwapUsageBytes, 1, labels...)
		}
	}
	serve(w, r, collector{func(add func(family, time.Time, float64, ...string)) {
		use(add, stats.Node.CPU, stats.Node.Memory, stats.Node.Swap, [3]family{nodeCPU, nodeMemory, nodeSwap})
		for _, p := range stats.Pods {
			use(add, p.CPU, p.Memory, p.Swap, [3]family{podCPU, podMemory, podSwap}, p.PodRef.Name, p.PodRef.Namespace)
			for _, c := range p.Containers {
				labels := []string{c.Name, p.PodRef.Name, p.PodRef.Namespace}
				use(add, c.CPU, c.Memory, c.Swap, [3]family{containerCPU, containerMemory, containerSwap}, labels...)
				if !c.StartTime.IsZero() {
					add(containerStart, time.Time{}, float64(c.StartTime.UnixNano())*nanos, labels...)
				}
			}
		}
		add(scrapeError, time.Time{}, 0)
	}})
}

// cadvisorMetrics has the metrics by which dashboards and alerts know containers, as far as the runtime measures them.
func (s *Server) cadvisorMetrics(w http.ResponseWriter, r *http.Request) {
	stats, ok := s.currentStats(w, r)
	if !ok {
		return
	}
	labels := []string{"container", "id", "image", "name", "namespace", "pod"}
	var (
		cpu        = counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", append(labels, "cpu")...)
		memory     = gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", labels...)
		workingSet = gauge("container_memory_working_set_bytes", "Current working set in bytes.", labels...)
		rss        = gauge("container_memory_rss", "Size of RSS in bytes.", labels...)
		fs         = gauge("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", append(labels, "device")...)
		start      = gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", labels...)
		rx         = counter("container_network_receive_bytes_total", "Cumulative count of bytes received", append(labels, "interface")...)
		tx         = counter("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", append(labels, "interface")...)
		rxErrors   = counter("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", append(labels, "interface")...)
		txErrors   = counter("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", append(labels, "interface")...)
		reads      = counter("container_fs_reads_total", "Cumulative count of reads completed", append(labels, "device")...)
		writes     = counter("container_fs_writes_total", "Cumulative count of writes completed", append(labels, "device")...)
		bytesRead  = counter("container_fs_reads_bytes_total", "Cumulative count of bytes read", append(labels, "device")...)
		bytesWrote = counter("container_fs_writes_bytes_total", "Cumulative count of bytes written", append(labels, "device")...)
		cores      = gauge("machine_cpu_cores", "Number of logical CPU cores.")
		total      = gauge("machine_memory_bytes", "Amount of memory installed on the machine.")
	)
	pressures := pressureFamilies(labels)
	use := func(add emitter, c *statsapi.CPUStats, m *statsapi.MemoryStats, io *statsapi.IOStats, values ...string) {
		if io != nil {
			pressures["io"].emit(add, io.Time.Time, io.PSI, values)
		}
		if c != nil {
			pressures["cpu"].emit(add, c.Time.Time, c.PSI, values)
			add.maybe(cpu, c.Time.Time, c.UsageCoreNanoSeconds, nanos, append(values, "total")...)
		}
		if m != nil {
			pressures["memory"].emit(add, m.Time.Time, m.PSI, values)
			add.maybe(memory, m.Time.Time, m.UsageBytes, 1, values...)
			add.maybe(workingSet, m.Time.Time, m.WorkingSetBytes, 1, values...)
			add.maybe(rss, m.Time.Time, m.RSSBytes, 1, values...)
		}
	}
	images := s.images()
	serve(w, r, collector{func(emit func(family, time.Time, float64, ...string)) {
		add := emitter(emit)
		n, bytes := machine()
		add(cores, time.Time{}, n)
		add(total, time.Time{}, bytes)
		use(add, stats.Node.CPU, stats.Node.Memory, stats.Node.IO, "", "/", "", "", "", "")
		for _, p := range stats.Pods {
			uid, name, namespace := p.PodRef.UID, p.PodRef.Name, p.PodRef.Namespace
			podValues := []string{"", "pod" + uid, "", "", namespace, name}
			use(add, p.CPU, p.Memory, p.IO, podValues...)
			if p.Network != nil {
				for _, i := range p.Network.Interfaces {
					values, at := append(slices.Clip(podValues), i.Name), p.Network.Time.Time
					add.maybe(rx, at, i.RxBytes, 1, values...)
					add.maybe(tx, at, i.TxBytes, 1, values...)
					add.maybe(rxErrors, at, i.RxErrors, 1, values...)
					add.maybe(txErrors, at, i.TxErrors, 1, values...)
				}
			}
			for _, c := range p.Containers {
				ref := images[uid+"/"+c.Name]
				values := []string{c.Name, "pod" + uid + "/" + ref.id, ref.image, ref.id, namespace, name}
				use(add, c.CPU, c.Memory, c.IO, values...)
				ref.emit(add, [4]family{reads, writes, bytesRead, bytesWrote}, values)
				if c.Rootfs != nil {
					add.maybe(fs, c.Rootfs.Time.Time, c.Rootfs.UsedBytes, 1, append(slices.Clip(values), "")...)
				}
				if !c.StartTime.IsZero() {
					add(start, time.Time{}, float64(c.StartTime.Unix()), values...)
				}
			}
		}
	}})
}

// pressure is how long tasks have waited for a resource: some of them, or all.
type pressure struct{ waiting, stalled family }

func pressureFamilies(labels []string) map[string]pressure {
	out := map[string]pressure{}
	for resource, name := range map[string]string{"cpu": "CPU", "memory": "memory", "io": "IO"} {
		out[resource] = pressure{
			waiting: counter("container_pressure_"+resource+"_waiting_seconds_total", "Total time duration tasks in the container have waited due to "+name+" congestion.", labels...),
			stalled: counter("container_pressure_"+resource+"_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to "+name+" congestion.", labels...),
		}
	}
	return out
}

func (p pressure) emit(add emitter, at time.Time, psi *statsapi.PSIStats, values []string) {
	if psi != nil {
		add(p.waiting, at, float64(psi.Some.Total)*micros, values...)
		add(p.stalled, at, float64(psi.Full.Total)*micros, values...)
	}
}

type containerRef struct {
	id, image string
	disks     []stats.Device
}

// emit tells what a container has done with each of its disks: reads, writes, and the bytes of both.
func (r containerRef) emit(add emitter, families [4]family, values []string) {
	for _, d := range r.disks {
		for i, n := range [4]uint64{d.Reads, d.Writes, d.ReadBytes, d.WriteBytes} {
			add(families[i], time.Time{}, float64(n), append(slices.Clip(values), d.Name)...)
		}
	}
}

// images finds what the API says of each container, and its disks: pod UID/name → id and image.
func (s *Server) images() map[string]containerRef {
	out := map[string]containerRef{}
	for _, pod := range s.cfg.Pods.Pods() {
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
			_, id, _ := strings.Cut(c.ContainerID, "://")
			ref := containerRef{id: id, image: c.Image}
			if s.cfg.DiskIO != nil {
				ref.disks = s.cfg.DiskIO(pod, id)
			}
			out[string(pod.UID)+"/"+c.Name] = ref
		}
	}
	return out
}

// machine reads the number of processors and the memory.
func machine() (cores, bytes float64) {
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		cores = float64(strings.Count("\n"+string(data), "\nprocessor"))
	}
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		if fields := strings.Fields(string(data)); len(fields) > 1 {
			kib, _ := strconv.ParseFloat(fields[1], 64)
			bytes = kib * 1024
		}
	}
	return cores, bytes
}
