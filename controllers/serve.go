package controllers

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"keelson.dev/internal/secureserving"
)

// port is the manager's port: health and metrics, whether this process leads or not.
type port struct{ secureserving.Config }

// NeedLeaderElection is false: who waits for the lease is healthy too.
func (port) NeedLeaderElection() bool { return false }

// Start serves until ctx ends.
func (p port) Start(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("/metrics", metrics.HandlerFor(prometheus.Gatherers{ctrlmetrics.Registry, legacyregistry.DefaultGatherer}, metrics.HandlerOpts{ErrorHandling: metrics.ContinueOnError}))
	if err := secureserving.Run(ctx, p.Config, mux); err != nil && ctx.Err() == nil {
		return fmt.Errorf("controllers' port: %w", err)
	}
	return nil
}
