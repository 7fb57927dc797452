package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	utilexec "k8s.io/utils/exec"
)

// Exec runs a command in a container to its end.
type Exec interface {
	ExecSync(ctx context.Context, containerID string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error)
}

// verdict of one attempt. broken means that nothing could be found out: the result stays as it was.
type verdict struct {
	ok     bool
	broken error
	output string
}

// attempt asks once.
func (m *Manager) attempt(ctx context.Context, w *worker) verdict {
	p := w.probe
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	if p.Exec != nil {
		return m.probeExec(ctx, w.target.ID, p.Exec.Command, timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.HTTPGet != nil:
		ok, output := probeHTTP(ctx, p.HTTPGet, w.container, w.podIP())
		return verdict{ok: ok, output: output}
	case p.TCPSocket != nil:
		return probeTCP(ctx, p.TCPSocket, w.container, w.podIP())
	case p.GRPC != nil:
		return probeGRPC(ctx, p.GRPC, w.podIP())
	}
	return verdict{broken: errors.New("missing probe handler")}
}

func (m *Manager) probeExec(ctx context.Context, id string, command []string, timeout time.Duration) verdict {
	stdout, stderr, err := m.cfg.Exec.ExecSync(ctx, id, command, timeout)
	output := string(append(stdout, stderr...))
	output = output[:min(len(output), maxBody)]
	var exit utilexec.CodeExitError
	switch {
	case err == nil:
		return verdict{ok: true, output: output}
	case errors.As(err, &exit):
		return verdict{output: output}
	case status.Code(err) == codes.DeadlineExceeded || isTimeout(err):
		return verdict{output: fmt.Sprintf("command timed out: %q timed out after %s", command, timeout)}
	}
	return verdict{broken: err}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout() || errors.Is(err, errCommandTimedOut)
}

func probeTCP(ctx context.Context, a *corev1.TCPSocketAction, c *corev1.Container, podIP string) verdict {
	port, err := Port(a.Port, c)
	if err != nil {
		return verdict{broken: err}
	}
	host := a.Host
	if host == "" {
		host = podIP
	}
	conn, err := dialer().DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return verdict{output: err.Error()}
	}
	return verdict{ok: true, broken: conn.Close()}
}

func probeGRPC(ctx context.Context, a *corev1.GRPCAction, podIP string) verdict {
	addr := net.JoinHostPort(podIP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient(addr, grpc.WithUserAgent(userAgent), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer().DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return verdict{broken: err}
	}
	defer conn.Close()
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	switch {
	case err == nil && resp.Status == healthpb.HealthCheckResponse_SERVING:
		return verdict{ok: true, output: "service healthy"}
	case err == nil:
		return verdict{output: fmt.Sprintf("service unhealthy (responded with %q)", resp.Status)}
	case status.Code(err) == codes.Unimplemented:
		return verdict{output: fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())}
	case ctx.Err() != nil:
		return verdict{output: fmt.Sprintf("timeout: failed to connect service %q within %s: %v", addr, "its timeout", err)}
	}
	return verdict{output: fmt.Sprintf("error: health rpc probe failed: %+v", err)}
}
