package tokens

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// The counters of token uses, with upstream's names.
var (
	legacyTokens      = counter("legacy_tokens_total", "Cumulative legacy service account tokens used", metrics.BETA)
	staleTokens       = counter("stale_tokens_total", "Cumulative stale projected service account tokens used", metrics.BETA)
	validTokens       = counter("valid_tokens_total", "Cumulative valid projected service account tokens used", metrics.BETA)
	manualTokens      = counter("legacy_manual_token_uses_total", "Cumulative manually created legacy tokens used", metrics.ALPHA)
	generatedTokens   = counter("legacy_auto_token_uses_total", "Cumulative auto-generated legacy tokens used", metrics.ALPHA)
	invalidatedTokens = counter("invalid_legacy_auto_token_uses_total", "Cumulative invalid auto-generated legacy tokens used", metrics.ALPHA)
)

func counter(name, help string, level metrics.StabilityLevel) *metrics.Counter {
	return metrics.NewCounter(&metrics.CounterOpts{Subsystem: "serviceaccount", Name: name, Help: help, StabilityLevel: level})
}

// RegisterMetrics adds the counters to the metrics of the process.
var RegisterMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(legacyTokens, staleTokens, validTokens, manualTokens, generatedTokens, invalidatedTokens)
})
