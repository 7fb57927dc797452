// Package hooks runs what a container wants done right after it has started and right before it is stopped.
package hooks

import (
	"context"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/probes"
)

// Exec runs a command in a container to its end.
type Exec interface {
	ExecSync(ctx context.Context, containerID string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error)
}

// Runner runs hooks.
type Runner struct {
	Exec  Exec
	Clock clock.Clock
}

// Run returns when the hook has succeeded, failed, or ctx has ended. The error's text is what the event shows.
func (r *Runner) Run(ctx context.Context, c *corev1.Container, id string, podIP string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		return r.exec(ctx, id, h.Exec.Command)
	case h.HTTPGet != nil:
		return r.get(ctx, c, podIP, h.HTTPGet)
	case h.TCPSocket != nil:
		return fmt.Errorf("tcpSocket is not supported as a lifecycle handler")
	case h.Sleep != nil:
		select {
		case <-r.Clock.After(time.Duration(h.Sleep.Seconds) * time.Second):
		case <-ctx.Done():
		}
		return nil
	}
	return fmt.Errorf("invalid handler: %v", h)
}

func (r *Runner) exec(ctx context.Context, id string, command []string) error {
	var timeout time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline), time.Second)
	}
	_, stderr, err := r.Exec.ExecSync(ctx, id, command, timeout)
	if err != nil {
		return fmt.Errorf("Exec lifecycle hook (%v) failed: %w, message: %q", command, err, stderr) // shown to users as is
	}
	return nil
}

func (r *Runner) get(ctx context.Context, c *corev1.Container, podIP string, h *corev1.HTTPGetAction) error {
	req, err := probes.NewRequest(ctx, h, c, podIP)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "kube-lifecycle/1.37")
	client := &http.Client{Transport: probes.Transport()}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("HTTP lifecycle hook (%s) for Container %q failed: %s", h.Path, c.Name, resp.Status)
	}
	return nil
}
