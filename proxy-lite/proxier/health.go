package proxier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/proxy-lite/rules"
)

const (
	defaultHealthz = "0.0.0.0:10256"
	// toBeDeleted is the cluster autoscaler's taint: load balancers shall send such a node nothing new.
	toBeDeleted   = "ToBeDeletedByClusterAutoscaler"
	headerTimeout = 5 * time.Second
)

// health answers load balancers and probes: /livez says whether the rules are written, /healthz also whether the node should get
// new connections.
type health struct {
	clock clock.PassiveClock

	mu       sync.Mutex
	ok       bool
	last     time.Time
	eligible bool
}

func newHealth(c clock.PassiveClock) *health { return &health{clock: c, eligible: true} }

func (h *health) synced() { h.set(true) }
func (h *health) failed() { h.set(false) }

func (h *health) set(ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ok = ok
	if ok {
		h.last = h.clock.Now()
	}
}

func (h *health) setNode(node *corev1.Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.eligible = node.DeletionTimestamp == nil
	for _, t := range node.Spec.Taints {
		if t.Key == toBeDeleted {
			h.eligible = false
		}
	}
}

func (h *health) serve(ctx context.Context, addr string) (stop func(), err error) {
	if addr == "" {
		addr = defaultHealthz
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { h.answer(w, true) })
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { h.answer(w, false) })
	return listen(ctx, addr, mux)
}

func (h *health) answer(w http.ResponseWriter, withNode bool) {
	h.mu.Lock()
	ok, last, eligible := h.ok, h.last, h.eligible
	h.mu.Unlock()
	status := http.StatusOK
	if !ok || (withNode && !eligible) {
		status = http.StatusServiceUnavailable
	}
	body := map[string]any{"lastUpdated": last.String(), "currentTime": h.clock.Now().String()}
	answers := liveAnswers
	if withNode {
		answers, body["nodeEligible"] = healthAnswers, eligible
	}
	answers.WithLabelValues(strconv.Itoa(status)).Inc()
	writeJSON(w, status, body)
}

// serveMetrics serves the metrics of the process until stop, and its profiles if they are wanted.
func serveMetrics(ctx context.Context, addr string, profiles bool) (stop func(), err error) {
	mux := http.NewServeMux()
	mux.Handle("/metrics", legacyregistry.Handler())
	if profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	}
	return listen(ctx, addr, mux)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client went away
}

func listen(ctx context.Context, addr string, handler http.Handler) (stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			klog.FromContext(ctx).Error(err, "Server ended", "address", addr)
		}
	}()
	return func() { _ = server.Close(); <-done }, nil
}

// healthChecks are the servers on the health check node ports: a load balancer asks each node whether it has endpoints of a
// Service whose externalTrafficPolicy is Local. Only the loop uses it; its handlers read answers.
type healthChecks struct {
	mu      sync.Mutex
	answers map[types.NamespacedName]rules.Service
	stop    map[types.NamespacedName]func()
}

func newHealthChecks() *healthChecks {
	return &healthChecks{answers: map[types.NamespacedName]rules.Service{}, stop: map[types.NamespacedName]func(){}}
}

func (h *healthChecks) close() {
	for _, stop := range h.stop {
		stop()
	}
}

// update opens and closes servers as the changed Services ask. A port that is taken is logged: the Service works without.
func (h *healthChecks) update(ctx context.Context, changed []rules.Service) {
	for _, s := range changed {
		h.mu.Lock()
		old := h.answers[s.Name]
		h.answers[s.Name] = s
		if s.HealthCheckPort == 0 {
			delete(h.answers, s.Name)
		}
		h.mu.Unlock()
		if old.HealthCheckPort == s.HealthCheckPort {
			continue
		}
		if stop, ok := h.stop[s.Name]; ok {
			stop()
			delete(h.stop, s.Name)
		}
		if s.HealthCheckPort == 0 {
			continue
		}
		stop, err := listen(ctx, net.JoinHostPort("", strconv.Itoa(int(s.HealthCheckPort))), h.handler(s.Name))
		if err != nil {
			klog.FromContext(ctx).Error(err, "Health check node port is not served", "service", s.Name, "port", s.HealthCheckPort)
			continue
		}
		h.stop[s.Name] = stop
	}
}

func (h *healthChecks) handler(name types.NamespacedName) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		s := h.answers[name]
		h.mu.Unlock()
		status := http.StatusOK
		if s.LocalCount == 0 {
			status = http.StatusServiceUnavailable
		}
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(s.LocalCount))
		writeJSON(w, status, map[string]any{
			"service":             map[string]string{"namespace": name.Namespace, "name": name.Name},
			"localEndpoints":      s.LocalCount,
			"serviceProxyHealthy": true,
		})
	})
}
