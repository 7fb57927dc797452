// Package server is the kubelet's HTTPS API on port 10250: who is asking, may they, and then either an answer from the agent or
// a stream to the container runtime.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"

	"keelson.dev/internal/secureserving"
	"keelson.dev/kubelet-lite/stats"
)

// Pods is what the server asks of the agent.
type Pods interface {
	// Pods returns all pods bound to this node with their latest status, mirrors instead of their static pods.
	Pods() []*corev1.Pod
	// ContainerID returns the id and log path of the named container's newest (or, with previous, the one before it) attempt.
	// Errors are worded as a log request's answer: container "c" in pod "p" is waiting to start: ContainerCreating.
	ContainerID(ctx context.Context, namespace, pod, container string, previous bool) (id, logPath string, err error)
	// SandboxID returns the id of the pod's ready sandbox.
	SandboxID(ctx context.Context, namespace, pod string) (string, error)
}

// Config is what the server needs.
type Config struct {
	Address string // default 0.0.0.0
	Port    int    // default 10250
	// Certificate returns the current serving certificate.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAFile verifies client certificates; it is read again when it changes. Empty: no client certificates.
	ClientCAFile string
	Client       kubernetes.Interface // TokenReview and SubjectAccessReview
	NodeName     string
	Anonymous    bool // authentication.anonymous.enabled
	AlwaysAllow  bool // authorization.mode AlwaysAllow
	Pods         Pods
	Runtime      runtimeapi.RuntimeServiceClient
	Summary      func(ctx context.Context) (*statsapi.Summary, error)
	// DiskIO is what a container has done with block devices; nil: nothing is told of it.
	DiskIO func(pod *corev1.Pod, containerID string) []stats.Device
	// Healthy backs /healthz/syncloop; nil error is ok.
	Healthy func() error
	// Configz is the effective KubeletConfiguration.
	Configz func() any
	// Metrics and ProbeMetrics serve /metrics and /metrics/probes; nil: Prometheus' default registry, and nothing.
	Metrics, ProbeMetrics http.Handler
	// LogDir is served under /logs/, default /var/log. CheckpointDir takes checkpoints, default /var/lib/kubelet/checkpoints.
	LogDir, CheckpointDir string
	Clock                 clock.PassiveClock
}

// Server serves until its context ends.
type Server struct {
	cfg     Config
	handler http.Handler
}

// New returns a server that does not listen yet.
func New(cfg Config) (*Server, error) {
	if cfg.Certificate == nil || cfg.Pods == nil || cfg.Runtime == nil {
		return nil, errors.New("the kubelet server needs a certificate, pods and a runtime")
	}
	if cfg.Address == "" {
		cfg.Address = "0.0.0.0"
	}
	if cfg.Port == 0 {
		cfg.Port = 10250
	}
	if cfg.LogDir == "" {
		cfg.LogDir = "/var/log"
	}
	if cfg.CheckpointDir == "" {
		cfg.CheckpointDir = "/var/lib/kubelet/checkpoints"
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	s := &Server{cfg: cfg}
	s.handler = newGate(cfg).Wrap(s.routes())
	return s, nil
}

// ServeHTTP answers one request, authenticated and authorized.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Run listens and serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(s.cfg.Address, strconv.Itoa(s.cfg.Port)))
	if err != nil {
		return fmt.Errorf("listen for the kubelet API: %w", err)
	}
	return s.Serve(ctx, listener)
}

// Serve is Run on a listener of the caller's.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	return secureserving.Serve(ctx, listener, s, s.cfg.Certificate)
}

// route is one line of the API.
type route struct {
	pattern string
	handle  http.HandlerFunc
}

func (s *Server) routes() http.Handler {
	routes := []route{
		{"/healthz", s.healthz},
		{"/healthz/ping", ok},
		{"/healthz/log", ok},
		{"/healthz/syncloop", s.healthz},
		{"GET /pods", s.pods},
		{"GET /runningpods/", s.runningPods},
		{"GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs},
		{"GET /logs/", http.StripPrefix("/logs/", http.FileServer(http.Dir(s.cfg.LogDir))).ServeHTTP},
		{"/exec/{namespace}/{pod}/{container}", s.exec},
		{"/exec/{namespace}/{pod}/{uid}/{container}", s.exec},
		{"/attach/{namespace}/{pod}/{container}", s.attach},
		{"/attach/{namespace}/{pod}/{uid}/{container}", s.attach},
		{"/portForward/{namespace}/{pod}", s.portForward},
		{"/portForward/{namespace}/{pod}/{uid}", s.portForward},
		{"POST /run/{namespace}/{pod}/{container}", s.run},
		{"POST /run/{namespace}/{pod}/{uid}/{container}", s.run},
		{"POST /checkpoint/{namespace}/{pod}/{container}", s.checkpoint},
		{"GET /stats/summary", s.summary},
		{"GET /metrics", s.metrics().ServeHTTP},
		{"GET /metrics/probes", s.probeMetrics().ServeHTTP},
		{"GET /metrics/resource", s.resourceMetrics},
		{"GET /metrics/cadvisor", s.cadvisorMetrics},
		{"GET /configz", s.configz},
		{"/debug/pprof/", pprof.Index},
		{"/debug/pprof/cmdline", pprof.Cmdline},
		{"/debug/pprof/profile", pprof.Profile},
		{"/debug/pprof/symbol", pprof.Symbol},
		{"/debug/pprof/trace", pprof.Trace},
	}
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.HandleFunc(r.pattern, r.handle)
	}
	return mux
}
