// Package metrics has the metrics of the agent's own work, under the names by which dashboards and alerts know the kubelet's. They are in
// the process's registry; what is only counted when it is asked for, such as running pods, package server adds.
package metrics

import (
	"crypto/tls"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

const subsystem = "kubelet"

// The metrics. Durations are in seconds.
var (
	PodStart       = metrics.NewHistogram(histogram("pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", starts))
	PodWorker      = metrics.NewHistogramVec(histogram("pod_worker_duration_seconds", "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", metrics.DefBuckets), []string{"operation_type"})
	PodStatusSync  = metrics.NewHistogram(histogram("pod_status_sync_duration_seconds", "Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.", []float64{.01, .05, .1, .5, 1, 5, 10, 20, 30, 45, 60}))
	StartedPods    = metrics.NewCounter(counter("started_pods_total", "Cumulative number of pods started"))
	StartedPodErrs = metrics.NewCounter(counter("started_pods_errors_total", "Cumulative number of errors when starting pods"))
	Started        = metrics.NewCounterVec(counter("started_containers_total", "Cumulative number of containers started"), []string{"container_type"})
	StartedErrors  = metrics.NewCounterVec(counter("started_containers_errors_total", "Cumulative number of errors when starting containers"), []string{"container_type", "code"})

	operations     = metrics.NewCounterVec(counter("runtime_operations_total", "Cumulative number of runtime operations by operation type."), []string{"operation_type"})
	operationErrs  = metrics.NewCounterVec(counter("runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type."), []string{"operation_type"})
	operationTimes = metrics.NewHistogramVec(histogram("runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type.", metrics.ExponentialBuckets(.005, 2.5, 14)), []string{"operation_type"})

	Evictions        = metrics.NewCounterVec(counter("evictions", "Cumulative number of pod evictions by eviction signal"), []string{"eviction_signal"})
	Preemptions      = metrics.NewCounterVec(counter("preemptions", "Cumulative number of pod preemptions by preemption resource"), []string{"preemption_signal"})
	PinningRequests  = metrics.NewCounter(counter("cpu_manager_pinning_requests_total", "The number of cpu core allocations which required pinning."))
	PinningErrors    = metrics.NewCounter(counter("cpu_manager_pinning_errors_total", "The number of cpu core allocations which required pinning failed."))
	SharedCPUs       = metrics.NewGauge(gauge("cpu_manager_shared_pool_size_millicores", "The size of the shared CPU pool for non-guaranteed QoS pods, in millicores."))
	ExclusiveCPUs    = metrics.NewGauge(gauge("cpu_manager_exclusive_cpu_allocation_count", "The total number of CPUs exclusively allocated to containers running on this node"))
	BindingRequests  = metrics.NewCounter(counter("memory_manager_pinning_requests_total", "The number of memory pages allocations which required pinning."))
	BindingErrors    = metrics.NewCounter(counter("memory_manager_pinning_errors_total", "The number of memory pages allocations which required pinning that failed."))
	TopologyRequests = metrics.NewCounter(counter("topology_manager_admission_requests_total", "The number of admission requests where resources have to be aligned."))
	TopologyErrors   = metrics.NewCounter(counter("topology_manager_admission_errors_total", "The number of admission request failures where resources could not be aligned."))

	ClientRenewErrs  = metrics.NewCounter(counter("certificate_manager_client_expiration_renew_errors", "Counter of certificate renewal errors."))
	ServingRenewErrs = metrics.NewCounter(counter("server_expiration_renew_errors", "Counter of certificate renewal errors."))
	ServingAge       = metrics.NewHistogram(histogram("certificate_manager_server_rotation_seconds", "Histogram of the number of seconds the previous certificate lived before being rotated.", []float64{60, 3600, 14400, 86400, 604800, 2592000, 7776000, 15552000, 31104000, 124416000}))
	clientLeft       = metrics.NewGaugeFunc(gauge("certificate_manager_client_ttl_seconds", "Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry (negative if already expired). If client certificate is invalid or unused, the value will be +INF."), ClientCertificate.left)
	servingLeft      = metrics.NewGaugeFunc(gauge("certificate_manager_server_ttl_seconds", "Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate expiry (negative if already expired). If serving certificate is invalid or unused, the value will be +INF."), ServingCertificate.left)
	storage          = metrics.NewHistogramVec(&metrics.HistogramOpts{Name: "storage_operation_duration_seconds", Help: "Storage operation duration", Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600}, StabilityLevel: metrics.BETA}, []string{"volume_plugin", "operation_name", "status", "migrated"})

	ShutdownStart = metrics.NewGauge(gauge("graceful_shutdown_start_time_seconds", "Last graceful shutdown start time since unix epoch in seconds"))
	ShutdownEnd   = metrics.NewGauge(gauge("graceful_shutdown_end_time_seconds", "Last graceful shutdown end time since unix epoch in seconds"))
)

// starts are the bounds by which upstream counts the start of pods.
var starts = []float64{.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

func counter(name, help string) *metrics.CounterOpts {
	return &metrics.CounterOpts{Subsystem: subsystem, Name: name, Help: help, StabilityLevel: metrics.ALPHA}
}

func gauge(name, help string) *metrics.GaugeOpts {
	return &metrics.GaugeOpts{Subsystem: subsystem, Name: name, Help: help, StabilityLevel: metrics.ALPHA}
}

func histogram(name, help string, buckets []float64) *metrics.HistogramOpts {
	return &metrics.HistogramOpts{Subsystem: subsystem, Name: name, Help: help, Buckets: buckets, StabilityLevel: metrics.ALPHA}
}

// Register makes the metrics known. Until then, and in processes without it, they count nothing. A second call does nothing.
var Register = sync.OnceFunc(func() {
	legacyregistry.MustRegister(
		PodStart, PodWorker, PodStatusSync, StartedPods, StartedPodErrs, Started, StartedErrors,
		operations, operationErrs, operationTimes, Evictions, Preemptions, ShutdownStart, ShutdownEnd,
		ClientRenewErrs, ServingRenewErrs, ServingAge, storage, PinningRequests, PinningErrors, SharedCPUs, ExclusiveCPUs, BindingRequests, BindingErrors, TopologyRequests, TopologyErrors,
	)
	legacyregistry.RawMustRegister(clientLeft, servingLeft)
})

// Operation counts a call to the runtime: defer Operation("run_podsandbox")(&err).
func Operation(kind string) func(*error) {
	began := time.Now()
	operations.WithLabelValues(kind).Inc()
	return func(err *error) {
		operationTimes.WithLabelValues(kind).Observe(time.Since(began).Seconds())
		if *err != nil {
			operationErrs.WithLabelValues(kind).Inc()
		}
	}
}

// ClientCertificate is the node's identity.
var ClientCertificate Certificate

// ServingCertificate is that of the node's own API.
var ServingCertificate Certificate

// Certificate is one that is renewed from time to time.
type Certificate struct {
	current atomic.Pointer[func() *tls.Certificate]
}

// Watch says how to get the certificate of the moment; nil while there is none.
func (c *Certificate) Watch(current func() *tls.Certificate) { c.current.Store(&current) }

// left is how long the certificate is still valid, in seconds.
func (c *Certificate) left() float64 {
	if current := c.current.Load(); current != nil {
		if pair := (*current)(); pair != nil && pair.Leaf != nil {
			return math.Trunc(time.Until(pair.Leaf.NotAfter).Seconds())
		}
	}
	return math.Inf(1)
}

// Storage counts an operation on a volume: defer Storage("kubernetes.io/secret", "volume_mount")(&err).
func Storage(plugin, operation string) func(*error) {
	began := time.Now()
	return func(err *error) {
		status := "success"
		if *err != nil {
			status = "fail-unknown"
		}
		storage.WithLabelValues(plugin, operation, status, strconv.FormatBool(false)).Observe(time.Since(began).Seconds())
	}
}
