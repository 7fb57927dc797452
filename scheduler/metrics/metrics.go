// Package metrics is what a scheduler counts, under the names of upstream's kube-scheduler, so that dashboards and alerts for that one
// work for this one.
package metrics

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// Results of an attempt.
const (
	Scheduled     = "scheduled"
	Unschedulable = "unschedulable"
	Failed        = "error"
)

// maxAttemptsLabel bounds the label of attempts, as upstream does: pods that needed more are counted together.
const maxAttemptsLabel = 15

// Metrics belong to one scheduler. All are safe for concurrent use.
type Metrics struct {
	registry metrics.KubeRegistry

	attempts       *metrics.CounterVec
	attemptTime    *metrics.HistogramVec
	algorithmTime  *metrics.Histogram
	sli            *metrics.HistogramVec
	podAttempts    *metrics.Histogram
	extensionPoint *metrics.HistogramVec
	plugin         *metrics.HistogramVec
	evaluations    *metrics.CounterVec
}

// Sources are the gauges that are read when somebody looks.
type Sources struct {
	Pending   func() map[string]int // pods by queue: active, backoff, unschedulable, gated
	Cached    func() map[string]int // entries of the cache by type: nodes, pods, assumed_pods
	InBinding func() int
}

// New returns the metrics of a scheduler.
func New(from Sources) *Metrics {
	buckets := metrics.ExponentialBuckets(0.001, 2, 15)
	m := &Metrics{
		registry: metrics.NewKubeRegistry(),
		attempts: metrics.NewCounterVec(&metrics.CounterOpts{
			Subsystem: "scheduler", Name: "schedule_attempts_total", StabilityLevel: metrics.STABLE,
			Help: "Attempts to schedule pods, by result: scheduled, unschedulable, or error for a fault of the scheduler's own.",
		}, []string{"result", "profile"}),
		attemptTime: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: "scheduler", Name: "scheduling_attempt_duration_seconds", StabilityLevel: metrics.STABLE, Buckets: buckets,
			Help: "Seconds of an attempt: decision and binding.",
		}, []string{"result", "profile"}),
		algorithmTime: metrics.NewHistogram(&metrics.HistogramOpts{
			Subsystem: "scheduler", Name: "scheduling_algorithm_duration_seconds", StabilityLevel: metrics.ALPHA, Buckets: buckets,
			Help: "Seconds of a decision.",
		}),
		sli: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: "scheduler", Name: "pod_scheduling_sli_duration_seconds", StabilityLevel: metrics.BETA,
			Buckets: metrics.ExponentialBuckets(0.01, 2, 20),
			Help:    "Seconds from the first attempt for a pod until it is bound, over all attempts.",
		}, []string{"attempts"}),
		podAttempts: metrics.NewHistogram(&metrics.HistogramOpts{
			Subsystem: "scheduler", Name: "pod_scheduling_attempts", StabilityLevel: metrics.STABLE, Buckets: metrics.ExponentialBuckets(1, 2, 5),
			Help: "Attempts that a pod needed until it was bound.",
		}),
		extensionPoint: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: "scheduler", Name: "framework_extension_point_duration_seconds", StabilityLevel: metrics.STABLE,
			Buckets: metrics.ExponentialBuckets(0.0001, 2, 12),
			Help:    "Seconds of all plugins of an extension point, for one pod.",
		}, []string{"extension_point", "status", "profile"}),
		plugin: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: "scheduler", Name: "plugin_execution_duration_seconds", StabilityLevel: metrics.BETA,
			Buckets: metrics.ExponentialBuckets(0.00001, 1.5, 20),
			Help:    "Seconds of one call of a plugin, in the attempts that are sampled.",
		}, []string{"plugin", "extension_point", "status"}),
		evaluations: metrics.NewCounterVec(&metrics.CounterOpts{
			Subsystem: "scheduler", Name: "plugin_evaluation_total", StabilityLevel: metrics.BETA,
			Help: "Calls of a plugin at PreFilter and PreScore that had something to do, and at Filter and Score, where each node is a call.",
		}, []string{"plugin", "extension_point", "profile"}),
	}
	m.registry.MustRegister(m.attempts, m.attemptTime, m.algorithmTime, m.sli, m.podAttempts, m.extensionPoint, m.plugin, m.evaluations)
	for _, queue := range []string{"active", "backoff", "unschedulable", "gated"} {
		m.gauge("pending_pods", "Pods that wait, by the part of the queue they are in.", "queue", queue, func() int { return from.Pending()[queue] })
	}
	for _, kind := range []string{"nodes", "pods", "assumed_pods"} {
		m.gauge("scheduler_cache_size", "Entries of the scheduler's cache.", "type", kind, func() int { return from.Cached()[kind] })
	}
	m.gauge("goroutines", "Work that runs in the background.", "operation", "binding", from.InBinding)
	return m
}

func (m *Metrics) gauge(name, help, label, value string, read func() int) {
	m.registry.RawMustRegister(metrics.NewGaugeFunc(&metrics.GaugeOpts{
		Subsystem: "scheduler", Name: name, Help: help, ConstLabels: map[string]string{label: value}, StabilityLevel: metrics.STABLE,
	}, func() float64 { return float64(read()) }))
}

// Handler serves these metrics and those of the process.
func (m *Metrics) Handler() http.Handler {
	return metrics.HandlerFor(prometheus.Gatherers{m.registry, legacyregistry.DefaultGatherer}, metrics.HandlerOpts{})
}

// Tried counts an attempt.
func (m *Metrics) Tried(result, profile string, took time.Duration) {
	m.attempts.WithLabelValues(result, profile).Inc()
	m.attemptTime.WithLabelValues(result, profile).Observe(took.Seconds())
}

// Decided counts the time of a decision.
func (m *Metrics) Decided(took time.Duration) { m.algorithmTime.Observe(took.Seconds()) }

// Bound counts a pod that has its node: after how many attempts, and how long after the first.
func (m *Metrics) Bound(attempts int, sinceFirst time.Duration) {
	label := strconv.Itoa(attempts)
	if attempts >= maxAttemptsLabel {
		label = strconv.Itoa(maxAttemptsLabel) + "+"
	}
	m.sli.WithLabelValues(label).Observe(sinceFirst.Seconds())
	m.podAttempts.Observe(float64(attempts))
}

// Point counts what the plugins of an extension point have taken.
func (m *Metrics) Point(point, status, profile string, took time.Duration) {
	m.extensionPoint.WithLabelValues(point, status, profile).Observe(took.Seconds())
}

// Plugin counts what one call of a plugin has taken.
func (m *Metrics) Plugin(plugin, point, status string, took time.Duration) {
	m.plugin.WithLabelValues(plugin, point, status).Observe(took.Seconds())
}

// Evaluations counts the calls of a plugin at an extension point.
func (m *Metrics) Evaluations(plugin, point, profile string) Counter {
	return m.evaluations.WithLabelValues(plugin, point, profile)
}

// Counter counts upwards.
type Counter interface {
	Inc()
	Add(n float64)
}
