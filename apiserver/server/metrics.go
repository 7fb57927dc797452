package server

import (
	"k8s.io/component-base/featuregate"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // requests of this server's clients, work queues
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info
)

// applyMetrics adds what is true for the whole process: which features are on, and what version is served.
func (c *config) applyMetrics() {
	c.options.Metrics.Apply()
	if gate, ok := c.generic.FeatureGate.(featuregate.MutableFeatureGate); ok {
		gate.AddMetrics()
	}
	c.options.Run.ComponentGlobalsRegistry.AddMetrics()
}
