package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/internal/secureserving"
	"keelson.dev/scheduler/metrics"
	"keelson.dev/scheduler/profile"
)

// Paths of the scheduler's port beside /healthz, /livez and /readyz.
const (
	metricsPath = "/metrics"
	// WhyPath answers why a pod is where it is: GET with namespace and name, or POST with a pod that need not exist.
	WhyPath = "/debug/why"
)

// maxPod bounds a pod that is sent to be tried out: as much as an API server takes.
const maxPod = 3 << 20

// serve serves the scheduler's port until ctx ends.
func (s *Scheduler) serve(ctx context.Context, cfg secureserving.Config) error {
	mux := http.NewServeMux()
	ready := secureserving.Check{Name: "caches", Err: func(*http.Request) error {
		if !s.synced.Load() {
			return errors.New("the caches have not been filled yet")
		}
		return nil
	}}
	mux.Handle(metricsPath, s.metrics.Handler())
	mux.HandleFunc("GET "+WhyPath, s.answerWhy)
	mux.HandleFunc("POST "+WhyPath, s.answerWhatIf)
	if err := secureserving.Run(ctx, cfg, mux, ready); err != nil && ctx.Err() == nil {
		return fmt.Errorf("scheduler's port: %w", err)
	}
	return nil
}

func (s *Scheduler) answerWhy(w http.ResponseWriter, r *http.Request) {
	namespace, name := r.URL.Query().Get("namespace"), r.URL.Query().Get("name")
	pod, err := s.pods.Pods(namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err):
		http.Error(w, fmt.Sprintf("pod %s/%s is not known to the scheduler", namespace, name), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		s.answer(w, r, pod)
	}
}

func (s *Scheduler) answerWhatIf(w http.ResponseWriter, r *http.Request) {
	pod := &corev1.Pod{}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxPod)).Decode(pod); err != nil {
		http.Error(w, "the body is no pod: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.answer(w, r, pod)
}

func (s *Scheduler) answer(w http.ResponseWriter, r *http.Request, pod *corev1.Pod) {
	if !s.synced.Load() {
		http.Error(w, "the scheduler has not read the cluster yet", http.StatusServiceUnavailable)
		return
	}
	a, err := s.explain(r.Context(), pod)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a) // whoever asked has gone
}

// newMetrics ties the metrics to what they read.
func (s *Scheduler) newMetrics() *metrics.Metrics {
	core := s.informers.Core().V1()
	return metrics.New(metrics.Sources{
		Pending: func() map[string]int {
			active, backoff, unschedulable := s.queue.Pending()
			gated := s.queue.Gated()
			return map[string]int{"active": active, "backoff": backoff, "unschedulable": unschedulable - gated, "gated": gated}
		},
		Cached: func() map[string]int {
			return map[string]int{
				"nodes": len(core.Nodes().Informer().GetStore().ListKeys()), "pods": len(core.Pods().Informer().GetStore().ListKeys()),
				"assumed_pods": len(s.bindings),
			}
		},
		InBinding: func() int { return len(s.bindings) },
	})
}

// timedStatus runs the plugins of an extension point and counts how long they take.
func (s *Scheduler) timedStatus(point string, prof *profile.Profile, run func() *fwk.Status) *fwk.Status {
	started := time.Now()
	status := run()
	s.ran(point, prof, status, started)
	return status
}

// ran counts how long an extension point took that began at started.
func (s *Scheduler) ran(point string, prof *profile.Profile, status *fwk.Status, started time.Time) {
	s.metrics.Point(point, status.Code().String(), prof.ProfileName(), time.Since(started))
}
