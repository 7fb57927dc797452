package podworker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/images"
	"keelson.dev/kubelet-lite/metrics"
	"keelson.dev/kubelet-lite/podenv"
	"keelson.dev/kubelet-lite/podplan"
	"keelson.dev/kubelet-lite/volumes"
)

// Reasons of a container that did not get to run.
const (
	reasonConfigError    = "CreateContainerConfigError"
	reasonCreateError    = "CreateContainerError"
	reasonRunError       = "RunContainerError"
	reasonPostStartError = "PostStartHookError"
)

// start creates and starts one container instance and runs its postStart hook.
func (w *worker) start(ctx context.Context, pod *corev1.Pod, seen *cri.Pod, a podplan.Action, image podplan.Image) (func(), error) {
	c := container(pod, a.Container)
	metrics.Started.WithLabelValues(kindOf(pod, c.Name)).Inc()
	id, err := w.createAndStart(ctx, pod, seen, c, a, image)
	if err != nil {
		if f, ok := errors.AsType[*failure](err); ok {
			metrics.StartedErrors.WithLabelValues(kindOf(pod, c.Name), f.reason).Inc()
		}
		if ctx.Err() == nil {
			w.event(pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: %v", err)
		}
		return w.imageUsed(c.Name), err
	}
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return w.imageUsed(c.Name), nil
	}
	w.update(func() { w.stale = true }) // let the probes and the status see it while the hook runs
	ip := ""
	if ips := w.podIPs(pod, seen); len(ips) > 0 {
		ip = ips[0]
	}
	if err := w.m.cfg.Hooks.Run(ctx, c, id, ip, c.Lifecycle.PostStart); err != nil && ctx.Err() == nil {
		w.event(pod, c.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		klog.FromContext(ctx).Info("PostStart hook failed", "container", c.Name, "err", err)
		used := w.imageUsed(c.Name)
		return func() { used(); w.doomed[id] = "FailedPostStartHook" }, nil
	}
	return w.imageUsed(c.Name), nil
}

// kindOf is what metrics call the kind of a container.
func kindOf(pod *corev1.Pod, name string) string {
	named := func(c corev1.Container) bool { return c.Name == name }
	switch {
	case slices.ContainsFunc(pod.Spec.InitContainers, named):
		return "init_container"
	case slices.ContainsFunc(pod.Spec.Containers, named):
		return "container"
	}
	return "ephemeral_container"
}

// imageUsed makes the next start look at the image anew, as its pull policy may demand.
func (w *worker) imageUsed(name string) func() { return func() { delete(w.images, name) } }

func (w *worker) createAndStart(ctx context.Context, pod *corev1.Pod, seen *cri.Pod, c *corev1.Container, a podplan.Action, image podplan.Image) (string, error) {
	in := cri.Instance{Attempt: a.Attempt, BackOff: a.BackOff, ImageRef: image.Ref, ImageUser: image.User, Handler: w.handler, TargetID: targetID(pod, seen, c.Name)}
	if err := w.surroundings(ctx, pod, seen, c, &in); err != nil {
		if _, ok := errors.AsType[*failure](err); ok {
			return "", err
		}
		return "", &failure{reasonConfigError, err}
	}
	sandbox := seen.Sandbox()
	config, err := w.m.cfg.Node.ContainerConfig(pod, c, in)
	if err != nil {
		return "", &failure{reasonConfigError, err}
	}
	sandboxConfig, err := w.m.cfg.Node.SandboxConfig(pod, sandbox.Attempt)
	if err != nil {
		return "", &failure{reasonConfigError, err}
	}
	if err := makeLogDir(sandboxConfig.LogDirectory, filepath.Dir(config.LogPath)); err != nil {
		return "", &failure{reasonCreateError, err}
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	ctx = context.WithoutCancel(ctx) // half a container is worse than one too many
	id, err := w.m.cfg.Runtime.Runtime.CreateContainer(ctx, sandbox.ID, config, sandboxConfig)
	if err != nil {
		return "", &failure{reasonCreateError, err}
	}
	w.event(pod, c.Name, corev1.EventTypeNormal, "Created", "Container created")
	if err := w.m.cfg.Runtime.Runtime.StartContainer(ctx, id); err != nil {
		return "", &failure{reasonRunError, err}
	}
	w.event(pod, c.Name, corev1.EventTypeNormal, "Started", "Container started")
	w.linkLog(ctx, pod, c.Name, id, filepath.Join(sandboxConfig.LogDirectory, config.LogPath))
	return id, nil
}

// surroundings fills in what comes from elsewhere: environment, command, mounts.
func (w *worker) surroundings(ctx context.Context, pod *corev1.Pod, seen *cri.Pod, c *corev1.Container, in *cri.Instance) (err error) {
	ips := w.podIPs(pod, seen)
	withIPs := *pod
	withIPs.Status.HostIPs = nil
	if in.Envs, err = w.m.cfg.Env(ctx, &withIPs, c, ips); err != nil {
		return err
	}
	in.Command, in.Args = podenv.ExpandCommand(c, in.Envs)
	hostname, err := w.m.cfg.Node.Hostname(pod)
	if err != nil {
		return err
	}
	mapping, err := w.m.cfg.Node.UserMapping(pod)
	if err != nil {
		return err
	}
	refs, err := w.imageVolumes(ctx, pod, c)
	if err != nil {
		return err
	}
	in.Mounts, in.Devices, err = w.m.cfg.Volumes.ContainerMounts(pod, c, volumes.MountEnv{
		PodIPs: ips, Hostname: hostname, Domain: w.m.cfg.Node.FQDN(pod, hostname), Env: in.Envs, Images: refs,
		Restarts: in.Attempt, UIDMappings: mapping, GIDMappings: mapping,
	})
	if err != nil {
		return err
	}
	for _, d := range w.m.cfg.Devices {
		if err := d.Container(ctx, pod, c, in); err != nil {
			return err
		}
	}
	return nil
}

// imageVolumes pulls the images that the container mounts.
func (w *worker) imageVolumes(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (map[string]string, error) {
	refs := map[string]string{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image == nil || !mounts(c, v.Name) {
			continue
		}
		image, err := w.m.cfg.Images.EnsureNamed(ctx, pod, c.Name, v.Image.Reference, v.Image.PullPolicy, w.handler)
		if why, ok := errors.AsType[*images.Error](err); ok {
			return nil, &failure{why.Reason, errors.New(why.Message)}
		}
		if err != nil {
			return nil, err
		}
		refs[v.Name] = image.Ref
	}
	return refs, nil
}

func mounts(c *corev1.Container, volume string) bool {
	for _, m := range c.VolumeMounts {
		if m.Name == volume {
			return true
		}
	}
	return false
}

// targetID is the container whose processes an ephemeral container wants to see.
func targetID(pod *corev1.Pod, seen *cri.Pod, name string) string {
	for i := range pod.Spec.EphemeralContainers {
		e := &pod.Spec.EphemeralContainers[i]
		if e.Name != name || e.TargetContainerName == "" {
			continue
		}
		if target := seen.Container(e.TargetContainerName); target != nil && target.State == cri.Running {
			return target.ID
		}
	}
	return ""
}

func (w *worker) legacyLog(pod *corev1.Pod, name, id string) string {
	return filepath.Join(w.m.cfg.LegacyLogDir, fmt.Sprintf("%s_%s_%s-%s.log", pod.Name, pod.Namespace, name, id))
}

func (w *worker) linkLog(ctx context.Context, pod *corev1.Pod, name, id, path string) {
	if w.m.cfg.LegacyLogDir == "" {
		return
	}
	if err := os.Symlink(path, w.legacyLog(pod, name, id)); err != nil && !errors.Is(err, os.ErrExist) {
		klog.FromContext(ctx).V(2).Info("Log not linked", "container", name, "err", err)
	}
}
