// Package server is the kubelet's HTTPS API on port 10250.
package server

import (
	"context"
	"crypto/tls"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
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
	// ClientCAFile verifies client certificates; it is read again when it changes.
	ClientCAFile string
	Client       kubernetes.Interface // TokenReview and SubjectAccessReview
	NodeName     string
	Anonymous    bool // authentication.anonymous.enabled
	AlwaysAllow  bool // authorization.mode AlwaysAllow
	Pods         Pods
	Runtime      runtimeapi.RuntimeServiceClient
	Summary      func(ctx context.Context) (*statsapi.Summary, error)
	// Healthy backs /healthz and /healthz/syncloop; nil error is ok.
	Healthy func() error
	// Configz is the effective KubeletConfiguration.
	Configz func() any
	// ProbeMetrics and extra collectors are served on /metrics.
}

// Server serves until its context ends.
type Server struct{ cfg Config }

// New returns a server.
func New(cfg Config) (*Server, error) { return &Server{cfg: cfg}, nil }

// Run listens and serves.
func (s *Server) Run(ctx context.Context) error { return errors.New("not written yet") }
