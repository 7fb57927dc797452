package podworker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/dra"
	"keelson.dev/kubelet-lite/images"
	"keelson.dev/kubelet-lite/logs"
	"keelson.dev/kubelet-lite/metrics"
	"keelson.dev/kubelet-lite/podplan"
)

// action is a step under way.
type action struct {
	podplan.Action
	began   time.Time
	cancel  context.CancelFunc
	release chan struct{} // Kill: the container's turn has come
	hooked  atomic.Bool   // Kill: preStop has been started
}

// failure is an error with the reason that a waiting container shows.
type failure struct {
	reason string
	err    error
}

// Error leaves out the code that gRPC puts in front of what the runtime says.
func (f *failure) Error() string { return status.Convert(f.err).Message() }
func (f *failure) Unwrap() error { return f.err }

// execute starts one action, or changes one that is under way: a kill may be hastened.
func (w *worker) execute(ctx context.Context, pod *corev1.Pod, seen *cri.Pod, planned podplan.Action) {
	hooked := false
	if old := w.inFlight[planned.Key]; old != nil {
		if planned.Grace >= old.Grace {
			old.Wait = false
			close(old.release)
			return
		}
		old.cancel()
		hooked = old.hooked.Load()
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &action{Action: planned, began: w.m.cfg.Clock.Now(), cancel: cancel, release: make(chan struct{})}
	a.hooked.Store(hooked)
	if !a.Wait {
		close(a.release)
	}
	w.inFlight[a.Key] = a
	run := w.handlerOf(a, pod, seen)
	w.m.wg.Go(func() {
		defer cancel()
		apply, err := run(ctx)
		w.finish(ctx, a, apply, err)
	})
}

// finish hands the outcome to the worker. What was replaced by a later action of the same key no longer counts.
func (w *worker) finish(ctx context.Context, a *action, apply func(), err error) {
	cancelled := ctx.Err() != nil
	outcome := func() {
		if w.inFlight[a.Key] != a {
			return
		}
		delete(w.inFlight, a.Key)
		if a.Kind != podplan.SetUpVolumes && a.Kind != podplan.Pull && a.Kind != releaseStep {
			w.mu.Lock()
			w.stale = true
			w.mu.Unlock()
		}
		if err != nil && !cancelled {
			klog.FromContext(ctx).Info("Action did not succeed", "action", a.Kind, "container", a.Container, "err", err)
			w.setBack(a.Key, err)
		} else {
			delete(w.setbacks, a.Key)
		}
		if apply != nil {
			apply()
		}
	}
	select {
	case w.done <- outcome:
	case <-w.m.ctx.Done():
	}
}

func (w *worker) setBack(key podplan.Key, err error) {
	count := w.setbacks[key].Count
	s := podplan.Setback{Message: err.Error(), Count: count + 1, RetryAt: w.m.cfg.Clock.Now().Add(min(setbackStart<<min(count, 10), setbackMax))}
	if f, ok := errors.AsType[*failure](err); ok {
		s.Reason = f.reason
	}
	w.setbacks[key] = s
}

// dropStarts ends what only serves a start.
func (w *worker) dropStarts() {
	for key, a := range w.inFlight {
		switch key.Kind {
		case podplan.Pull, podplan.SetUpVolumes, podplan.Start:
			a.cancel()
		default: // serves the end as well
		}
	}
}

// step does an action. The function that it returns is called by the worker to record what was achieved.
type step func(ctx context.Context) (apply func(), err error)

func (w *worker) handlerOf(a *action, pod *corev1.Pod, seen *cri.Pod) step {
	switch a.Kind {
	case podplan.SetUpVolumes:
		return func(ctx context.Context) (func(), error) { return w.setUpVolumes(ctx, pod) }
	case podplan.CreateSandbox:
		return func(ctx context.Context) (func(), error) {
			return w.createSandbox(context.WithoutCancel(ctx), pod, a.Action)
		}
	case podplan.StopSandbox:
		return func(ctx context.Context) (func(), error) {
			return nil, ignoreGone(w.m.cfg.Runtime.Runtime.StopPodSandbox(context.WithoutCancel(ctx), a.Target))
		}
	case podplan.RemoveSandbox:
		return func(ctx context.Context) (func(), error) {
			return nil, ignoreGone(w.m.cfg.Runtime.Runtime.RemovePodSandbox(context.WithoutCancel(ctx), a.Target))
		}
	case podplan.RemoveContainer:
		return func(ctx context.Context) (func(), error) { return nil, w.removeContainer(ctx, pod, seen, a.Target) }
	case podplan.Pull:
		return func(ctx context.Context) (func(), error) { return w.pull(ctx, pod, a.Container) }
	case podplan.Start:
		image := w.images[a.Container]
		return func(ctx context.Context) (func(), error) { return w.start(ctx, pod, seen, a.Action, image) }
	case podplan.Kill:
		return func(ctx context.Context) (func(), error) { return nil, w.kill(ctx, pod, seen, a) }
	case podplan.Resize:
		last, resizing, placed := w.last, w.resources.resizing, maps.Clone(w.placed)
		return func(ctx context.Context) (func(), error) { return w.resize(ctx, pod, seen, last, resizing, placed) }
	}
	return func(context.Context) (func(), error) { return nil, fmt.Errorf("unknown action %q", a.Kind) }
}

func ignoreGone(err error) error {
	if cri.IsNotFound(err) {
		return nil
	}
	return err
}

func (w *worker) setUpVolumes(ctx context.Context, pod *corev1.Pod) (func(), error) {
	if err := w.m.cfg.Volumes.SetUp(ctx, pod); err != nil {
		if ctx.Err() == nil {
			for _, e := range unjoin(err) {
				w.event(pod, "", corev1.EventTypeWarning, "FailedMount", "%v", e)
			}
		}
		return nil, err
	}
	return func() { w.volumes = true }, nil
}

func unjoin(err error) []error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return joined.Unwrap()
	}
	return []error{err}
}

func (w *worker) createSandbox(ctx context.Context, pod *corev1.Pod, a podplan.Action) (func(), error) {
	runtime := w.m.cfg.Runtime.Runtime
	for _, id := range a.Sandboxes {
		if err := ignoreGone(runtime.StopPodSandbox(ctx, id)); err != nil {
			return nil, fmt.Errorf("stop old sandbox: %w", err)
		}
	}
	if len(a.Sandboxes) > 0 {
		w.event(pod, "", corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	for _, id := range a.Containers {
		if err := ignoreGone(runtime.RemoveContainer(ctx, id)); err != nil {
			return nil, fmt.Errorf("remove old init container: %w", err)
		}
	}
	handler, err := w.runSandbox(ctx, pod, a)
	metrics.StartedPods.Inc()
	if err != nil {
		metrics.StartedPodErrs.Inc()
		if unprepared, ok := errors.AsType[*dra.PrepareError](err); ok {
			w.event(pod, "", corev1.EventTypeWarning, unprepared.Reason(), "%v", err)
		} else {
			w.event(pod, "", corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
		}
		return nil, err
	}
	return func() { w.handler = handler }, nil
}

func (w *worker) runSandbox(ctx context.Context, pod *corev1.Pod, a podplan.Action) (handler string, err error) {
	if handler, err = w.m.cfg.RuntimeHandler(ctx, pod); err != nil {
		return "", err
	}
	if err := w.m.cfg.Cgroups.EnsurePod(pod); err != nil {
		return "", err
	}
	for _, d := range w.m.cfg.Devices {
		if err := d.Prepare(ctx, pod); err != nil {
			return "", err
		}
	}
	config, err := w.m.cfg.Node.SandboxConfig(pod, uint32(a.Attempt))
	if err != nil {
		return "", err
	}
	if err := makeLogDir(config.LogDirectory, ""); err != nil {
		return "", err
	}
	_, err = w.m.cfg.Runtime.Runtime.RunPodSandbox(ctx, config, handler)
	return handler, err
}

// makeLogDir makes a folder for logs, unless there are none.
func makeLogDir(podDir, below string) error {
	if podDir == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(podDir, below), 0o755); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	return nil
}

func (w *worker) pull(ctx context.Context, pod *corev1.Pod, name string) (func(), error) {
	c := container(pod, name)
	image, err := w.m.cfg.Images.Ensure(ctx, pod, c, w.handler)
	known := podplan.Image{Name: c.Image}
	var why *images.Error
	switch {
	case err == nil:
		known.Ref, known.User = image.Ref, image.User
	case errors.As(err, &why):
		known.Reason, known.Message, known.RetryAt = why.Reason, why.Message, why.RetryAt
	default:
		return nil, err
	}
	return func() { w.images[name] = known }, nil
}

// container finds a container of any kind by name.
func container(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			c := corev1.Container(e.EphemeralContainerCommon)
			return &c
		}
	}
	return nil
}

func (w *worker) removeContainer(ctx context.Context, pod *corev1.Pod, seen *cri.Pod, id string) error {
	if err := ignoreGone(w.m.cfg.Runtime.Runtime.RemoveContainer(context.WithoutCancel(ctx), id)); err != nil {
		return err
	}
	for _, c := range seen.Containers {
		if c.ID == id && c.LogPath != "" {
			os.Remove(w.legacyLog(pod, c.Name, id)) // best effort, as the links are a courtesy
			if rotated, err := filepath.Glob(c.LogPath + "*"); err == nil {
				for _, path := range rotated {
					os.Remove(path)
				}
			}
		}
	}
	return nil
}

// releaseStep is a step that no plan has: it comes when nothing of the pod runs any more.
const releaseStep podplan.Kind = "Release"

// release hands back what a stopped pod still holds: volumes, devices and cgroups.
func (w *worker) release(ctx context.Context, pod *corev1.Pod) {
	key := podplan.Key{Kind: releaseStep}
	if w.inFlight[key] != nil || w.setbacks[key].RetryAt.After(w.m.cfg.Clock.Now()) {
		return
	}
	w.m.cfg.Probes.Remove(pod.UID)
	a := &action{Action: podplan.Action{Key: key}, cancel: func() {}}
	w.inFlight[key] = a
	w.m.wg.Go(func() {
		errs := []error{w.m.cfg.Volumes.TearDown(ctx, pod.UID), w.m.cfg.Cgroups.RemovePod(pod.UID)}
		for _, d := range w.m.cfg.Devices {
			errs = append(errs, d.Release(ctx, pod.UID))
		}
		if w.m.cfg.Release != nil {
			errs = append(errs, w.m.cfg.Release(pod.UID))
		}
		err := errors.Join(errs...)
		apply := func() {
			if err != nil {
				w.later(w.setbacks[key].RetryAt)
				return
			}
			w.mu.Lock()
			w.released = true
			w.mu.Unlock()
			w.m.cfg.Stopped(pod)
		}
		w.finish(ctx, a, apply, err)
	})
}

// later wakes the worker at a time that no plan knows of.
func (w *worker) later(t time.Time) {
	delay := max(t.Sub(w.m.cfg.Clock.Now()), setbackStart)
	w.m.wg.Go(func() {
		select {
		case <-w.m.cfg.Clock.After(delay):
			w.update(func() {})
		case <-w.m.ctx.Done():
		}
	})
}

// purge removes the last traces of a pod that is gone from its source. It reports whether all are gone.
func (w *worker) purge(ctx context.Context, pod *corev1.Pod, seen *cri.Pod) bool {
	key := podplan.Key{Kind: "Purge"}
	if w.purged || w.inFlight[key] != nil {
		return w.purged
	}
	a := &action{Action: podplan.Action{Key: key}, cancel: func() {}}
	w.inFlight[key] = a
	w.m.wg.Go(func() {
		err := w.purgeNow(context.WithoutCancel(ctx), pod, seen)
		apply := func() {
			if w.purged = err == nil; !w.purged {
				w.later(w.setbacks[key].RetryAt)
			}
		}
		w.finish(ctx, a, apply, err)
	})
	return false
}

func (w *worker) purgeNow(ctx context.Context, pod *corev1.Pod, seen *cri.Pod) error {
	var errs []error
	for _, c := range seen.Containers {
		errs = append(errs, w.removeContainer(ctx, pod, seen, c.ID))
	}
	for _, s := range seen.Sandboxes {
		errs = append(errs, ignoreGone(w.m.cfg.Runtime.Runtime.RemovePodSandbox(ctx, s.ID)))
	}
	folder := cri.PodLogDir(w.m.cfg.Node.PodLogsRoot, pod)
	errs = append(errs, os.RemoveAll(folder))
	if w.m.cfg.LegacyLogDir != "" { // an agent that was killed between the removal of a container and that of its link has left the link
		errs = append(errs, logs.Unlink(w.m.cfg.LegacyLogDir, filepath.Base(w.legacyLog(pod, "*", "*")), folder))
	}
	return errors.Join(errs...)
}

func (w *worker) event(pod *corev1.Pod, container, kind, reason, format string, args ...any) {
	w.m.cfg.Recorder.Event(cri.ContainerReference(pod, container), kind, reason, fmt.Sprintf(format, args...))
}
