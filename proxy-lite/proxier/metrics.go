package proxier

import (
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// The metrics of the process, under kube-proxy's names.
var (
	seconds  = metrics.ExponentialBuckets(0.001, 2, 15)
	byFamily = []string{"ip_family"}

	syncDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Subsystem: "kubeproxy", Name: "sync_proxy_rules_duration_seconds", Buckets: seconds, StabilityLevel: metrics.ALPHA,
		Help: "Seconds to write what changed into the kernel.",
	}, byFamily)
	syncFailures = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem: "kubeproxy", Name: "sync_proxy_rules_nftables_sync_failures_total", StabilityLevel: metrics.ALPHA,
		Help: "Transactions that the kernel refused.",
	}, byFamily)
	lastSync = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Subsystem: "kubeproxy", Name: "sync_proxy_rules_last_timestamp_seconds", StabilityLevel: metrics.ALPHA,
		Help: "When rules were last written, in seconds since the epoch.",
	}, byFamily)
	lastQueued = metrics.NewGauge(&metrics.GaugeOpts{
		Subsystem: "kubeproxy", Name: "sync_proxy_rules_last_queued_timestamp_seconds", StabilityLevel: metrics.ALPHA,
		Help: "When a change was last seen, in seconds since the epoch.",
	})
	programmingDuration = metrics.NewHistogram(&metrics.HistogramOpts{
		Subsystem: "kubeproxy", Name: "network_programming_duration_seconds", StabilityLevel: metrics.ALPHA,
		Buckets: metrics.MergeBuckets(metrics.LinearBuckets(0.25, 0.25, 2), metrics.LinearBuckets(1, 1, 59), metrics.LinearBuckets(60, 5, 12), metrics.LinearBuckets(120, 30, 7)),
		Help:    "Seconds from a change of a pod or Service, as its EndpointSlice tells it, until the rules are written.",
	})
	serviceChanges = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem: "kubeproxy", Name: "sync_proxy_rules_service_changes_total", StabilityLevel: metrics.ALPHA,
		Help: "Changes of Services.",
	})
	endpointChanges = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem: "kubeproxy", Name: "sync_proxy_rules_endpoint_changes_total", StabilityLevel: metrics.ALPHA,
		Help: "Changes of EndpointSlices.",
	})
	healthAnswers = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem: "kubeproxy", Name: "proxy_healthz_total", StabilityLevel: metrics.ALPHA, Help: "Answers of /healthz, by status.",
	}, []string{"code"})
	liveAnswers = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem: "kubeproxy", Name: "proxy_livez_total", StabilityLevel: metrics.ALPHA, Help: "Answers of /livez, by status.",
	}, []string{"code"})
)

// registerMetrics adds them to the metrics of the process.
var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(syncDuration, syncFailures, lastSync, lastQueued, programmingDuration, serviceChanges, endpointChanges, healthAnswers, liveAnswers)
})

// written counts a transaction that began at start.
func written(family string, start, end time.Time, err error) {
	syncDuration.WithLabelValues(family).Observe(end.Sub(start).Seconds())
	if err != nil {
		syncFailures.WithLabelValues(family).Inc()
		return
	}
	lastSync.WithLabelValues(family).Set(float64(end.UnixNano()) / 1e9)
}
