package podworker

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"keelson.dev/kubelet-lite/cri"
)

// minStopSeconds is what a container gets between its stop signal and the kill even if its grace period is used up.
const minStopSeconds = 2

// kill runs the preStop hook, waits for the container's turn, and stops it; all within its grace period.
func (w *worker) kill(ctx context.Context, pod *corev1.Pod, seen *cri.Pod, a *action) error {
	clk := w.m.cfg.Clock
	deadline := clk.Now().Add(time.Duration(a.Grace) * time.Second)
	if !a.hooked.Swap(true) {
		w.event(pod, a.Container, corev1.EventTypeNormal, "Killing", "%s", a.Message)
		if a.Grace > 0 {
			w.preStop(ctx, pod, seen, a, deadline)
		}
	}
	select {
	case <-a.release:
	case <-clk.After(deadline.Sub(clk.Now())):
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	left := max(int64(deadline.Sub(clk.Now()).Round(time.Second)/time.Second), minStopSeconds)
	return ignoreGone(w.m.cfg.Runtime.Runtime.StopContainer(ctx, a.Target, left))
}

func (w *worker) preStop(ctx context.Context, pod *corev1.Pod, seen *cri.Pod, a *action, deadline time.Time) {
	c := container(pod, a.Container)
	var hook *corev1.LifecycleHandler
	switch {
	case c != nil && c.Lifecycle != nil:
		hook = c.Lifecycle.PreStop
	case c == nil: // the spec is gone; the container itself remembers
		c = &corev1.Container{Name: a.Container}
		for _, inst := range seen.Containers {
			if inst.ID == a.Target {
				hook = inst.PreStop
			}
		}
	}
	if hook == nil {
		return
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	ip := ""
	if ips := w.podIPs(pod, seen); len(ips) > 0 {
		ip = ips[0]
	}
	if err := w.m.cfg.Hooks.Run(ctx, c, a.Target, ip, hook); err != nil {
		klog.FromContext(ctx).Info("PreStop hook failed", "container", c.Name, "err", err)
		w.event(pod, c.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
}
