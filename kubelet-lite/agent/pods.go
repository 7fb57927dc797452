package agent

import (
	"context"
	"errors"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"keelson.dev/apis/core"
	"keelson.dev/kubelet-lite/admit"
	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/logs"
	"keelson.dev/kubelet-lite/metrics"
	"keelson.dev/kubelet-lite/podplan"
	"keelson.dev/kubelet-lite/podstatus"
	"keelson.dev/kubelet-lite/staticpods"
)

// runPods follows the API server's pods. Once it knows all of them, it ends what is left of pods that nobody wants any more.
func (a *agent) runPods(ctx context.Context) error {
	if _, err := a.sources.node.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			a.node.Seen(obj.(*corev1.Node))
			a.ensureMirrors(ctx)
		},
		UpdateFunc: func(_, obj any) { a.node.Seen(obj.(*corev1.Node)) },
	}); err != nil {
		return err
	}
	handler, err := a.sources.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { a.podChanged(ctx, obj.(*corev1.Pod)) },
		UpdateFunc: func(_, obj any) { a.podChanged(ctx, obj.(*corev1.Pod)) },
		DeleteFunc: func(obj any) {
			if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tombstone.Obj
			}
			a.podDeleted(ctx, obj.(*corev1.Pod))
		},
	})
	if err != nil {
		return err
	}
	a.sources.start(ctx)
	if cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		a.endOrphans(ctx)
		if err := a.claims.WipeUnknown(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Devices of drivers that are gone may still be on offer")
		}
	}
	<-ctx.Done()
	a.workers.Wait()
	return nil
}

func (a *agent) podChanged(ctx context.Context, pod *corev1.Pod) {
	if staticpods.IsMirror(pod) {
		a.mirrorChanged(ctx, pod)
		return
	}
	a.mu.Lock()
	known := a.api[pod.UID] != nil
	a.api[pod.UID] = pod
	a.mu.Unlock()
	a.shutdown.Wake()
	a.status.Observe(pod)
	a.accept(ctx, pod, known, false)
}

// accept gives a pod to its worker if the node takes it.
func (a *agent) accept(ctx context.Context, pod *corev1.Pod, known, static bool) {
	a.admitting.Lock()
	defer a.admitting.Unlock()
	a.mu.Lock()
	_, awaiting := a.awaiting[pod.UID]
	delete(a.awaiting, pod.UID)
	a.mu.Unlock()
	_, running := a.preexisting[pod.UID]
	over := pod.DeletionTimestamp != nil || podplan.IsTerminal(pod.Status.Phase)
	if (!known || awaiting) && !running && !over {
		rejection := a.admit(ctx, pod, static)
		if rejection != nil && a.preempt(ctx, pod, static) {
			return
		}
		if rejection != nil {
			a.reject(ctx, pod, static, rejection)
			return
		}
	}
	a.mu.Lock()
	waiting := a.rejected[pod.UID] && !over
	a.mu.Unlock()
	if !waiting { // a rejected pod has a worker only to be removed
		a.workers.Update(pod)
	}
}

func (a *agent) reject(ctx context.Context, pod *corev1.Pod, static bool, why *admit.Rejection) {
	klog.FromContext(ctx).Info("Pod rejected", "pod", klog.KObj(pod), "reason", why.Reason, "message", why.Message)
	a.recorder.Event(cri.ContainerReference(pod, ""), corev1.EventTypeWarning, why.Reason, why.Message)
	a.mu.Lock()
	a.rejected[pod.UID] = true
	a.mu.Unlock()
	if !static {
		a.status.Set(pod, podstatus.Rejected(pod, why.Reason, why.Message, a.clock.Now()))
	}
}

func (a *agent) admit(ctx context.Context, pod *corev1.Pod, static bool) *admit.Rejection {
	if rejection := a.shutdown.Admit(); rejection != nil {
		return rejection
	}
	if rejection := admit.Check(a.admission(pod, static)); rejection != nil {
		return rejection
	}
	return a.topology.Admit(ctx, pod, a.devices.Admit(pod))
}

func (a *agent) admission(pod *corev1.Pod, static bool) admit.Input {
	return admit.Input{
		Pod: pod, Static: static, Node: a.node.Node(), Active: a.active(pod.UID), AppArmor: cri.AppArmorEnabled(),
		UnsafeSysctls: a.cfg.Kubelet.AllowedUnsafeSysctls, Pressure: a.eviction.Pressure,
	}
}

const (
	reasonPreempting = "Preempting"
	messagePreempted = "Preempted in order to admit critical pod"
)

// preempt ends pods so that a critical one fits, which is looked at again when something has left the node. It reports whether there is
// such a way.
func (a *agent) preempt(ctx context.Context, pod *corev1.Pod, static bool) bool {
	in := a.admission(pod, static)
	all := len(in.Active)
	in.Active = slices.DeleteFunc(in.Active, func(other *corev1.Pod) bool { return a.workers.Stopping(other.UID) })
	victims, short := admit.Victims(in)
	enough := len(in.Active) < all && admit.Check(in) == nil // what ends already makes room
	if !admit.Critical(pod, static) || !enough && len(victims) == 0 || a.shutdown.Down() {
		return false
	}
	a.mu.Lock()
	a.awaiting[pod.UID] = func() { a.accept(ctx, pod, true, static) }
	a.mu.Unlock()
	for _, victim := range victims {
		a.workers.Stop(victim.UID, podplan.Stop{Reason: reasonPreempting, Message: messagePreempted, Condition: podplan.Disrupted("Pod was preempted by Kubelet to accommodate a critical pod.")})
		klog.FromContext(ctx).Info("Pod preempted", "pod", klog.KObj(victim), "for", klog.KObj(pod), "resource", short)
		a.recorder.Event(cri.ContainerReference(victim, ""), corev1.EventTypeWarning, reasonPreempting, messagePreempted)
		metrics.Preemptions.WithLabelValues(string(short)).Inc()
	}
	return true
}

// active are the pods other than one that hold resources of the node.
func (a *agent) active(except types.UID) []*corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*corev1.Pod
	for _, pods := range []map[types.UID]*corev1.Pod{a.api, a.static} {
		for uid, pod := range pods {
			if uid != except && !a.rejected[uid] && a.workers.Active(uid) {
				out = append(out, a.granted(pod))
			}
		}
	}
	return out
}

// granted is the pod with the requests that it was granted, where a resize asks for others.
func (a *agent) granted(pod *corev1.Pod) *corev1.Pod {
	status, ok := a.status.Latest(pod.UID)
	if !ok {
		status = pod.Status
	}
	out := *pod
	out.Spec = *pod.Spec.DeepCopy()
	if own := out.Spec.Resources; own != nil && status.AllocatedResources != nil {
		for name := range own.Requests {
			if q, ok := status.AllocatedResources[name]; ok {
				own.Requests[name] = q
			}
		}
	}
	for _, s := range slices.Concat(status.InitContainerStatuses, status.ContainerStatuses) {
		for _, list := range [][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers} {
			for i := range list {
				if list[i].Name == s.Name && s.AllocatedResources != nil {
					list[i].Resources.Requests = s.AllocatedResources
				}
			}
		}
	}
	return &out
}

// grant decides on a resize.
func (a *agent) grant(pod *corev1.Pod) (reason, message string) {
	if staticpods.IsStatic(pod) {
		return corev1.PodReasonInfeasible, "In-place resize of static-pods is not supported"
	}
	if ok, message := admit.Feasible(pod, a.node.Node()); !ok {
		return corev1.PodReasonInfeasible, message
	}
	if manager := a.topology.Fixes(a.granted(pod), pod); manager != "" {
		return corev1.PodReasonInfeasible, "Resize is infeasible for Guaranteed Pods alongside " + manager
	}
	if r := admit.Fits(admit.Input{Pod: pod, Node: a.node.Node(), Active: a.active(pod.UID)}); r != nil {
		return corev1.PodReasonDeferred, r.Message
	}
	return "", ""
}

func (a *agent) podDeleted(ctx context.Context, pod *corev1.Pod) {
	if staticpods.IsMirror(pod) {
		a.mirrorDeleted(ctx, pod)
		return
	}
	a.mu.Lock()
	delete(a.api, pod.UID)
	delete(a.rejected, pod.UID)
	delete(a.awaiting, pod.UID)
	a.mu.Unlock()
	a.shutdown.Wake()
	a.status.Forget(pod.UID)
	a.workers.Removed(pod.UID)
}

// stopped is called when a pod has released what it held.
func (a *agent) stopped(pod *corev1.Pod) {
	a.objects.Unregister(pod.UID)
	a.userns.Release(pod.UID)
	a.shutdown.Wake()
	a.workers.PokeAll() // a resize may have waited for what it held
	a.mu.Lock()
	awaiting := slices.Collect(maps.Values(a.awaiting))
	a.mu.Unlock()
	for _, again := range awaiting {
		again()
	}
}

// endOrphans ends pods that the runtime has and no source wants, and what crashed agents have left on disk.
func (a *agent) endOrphans(ctx context.Context) {
	logger := klog.FromContext(ctx)
	known := func(uid types.UID) bool {
		a.mu.Lock()
		wanted := a.api[uid] != nil || a.static[uid] != nil
		a.mu.Unlock()
		_, ending := a.workers.Known()[uid]
		return wanted || ending
	}
	for uid, found := range a.preexisting {
		if known(uid) {
			continue
		}
		logger.Info("Ending a pod that is gone from the API", "pod", klog.KRef(found.Namespace, found.Name), "podUID", uid)
		a.workers.Update(fromRuntime(found))
		a.workers.Removed(uid)
	}
	if err := a.volumes.Orphans(ctx, known); err != nil {
		logger.Error(err, "Volumes of old pods not cleaned up")
	}
	a.claims.Orphans(ctx, known)
	if err := errors.Join(a.devices.Orphans(known), a.topology.Orphans(known)); err != nil {
		logger.Error(err, "Devices, CPUs or memory of old pods not taken back")
	}
	if err := logs.Sweep(a.cfg.Kubelet.PodLogsDir, legacyLogDir, known); err != nil {
		logger.Error(err, "Logs of old pods not removed")
	}
	groups, err := a.cgroups.Pods()
	if err != nil {
		logger.Error(err, "Control groups not listed")
	}
	for uid := range groups {
		if !known(uid) {
			if err := a.cgroups.RemovePod(uid); err != nil { //nolint:contextcheck // it has a time limit of its own
				logger.Error(err, "Control group of an old pod not removed", "podUID", uid)
			}
		}
	}
}

// fromRuntime rebuilds as much of a pod as is needed to end it.
func fromRuntime(found *cri.Pod) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: found.UID, Namespace: found.Namespace, Name: found.Name}}
	for _, c := range found.Containers {
		grace := c.GracePeriod
		pod.Spec.TerminationGracePeriodSeconds = &grace
	}
	return pod
}

// runStaticPods follows the manifest folder.
func (a *agent) runStaticPods(ctx context.Context) error {
	if a.cfg.Kubelet.StaticPodPath == "" {
		return nil
	}
	source := &staticpods.Source{Dir: a.cfg.Kubelet.StaticPodPath, NodeName: a.cfg.NodeName, Clock: a.clock, Default: core.DefaultPodSpec}
	return source.Run(ctx, func(pods []*corev1.Pod) { a.staticChanged(ctx, pods) })
}

func (a *agent) staticChanged(ctx context.Context, pods []*corev1.Pod) {
	a.mu.Lock()
	old := a.static
	a.static = map[types.UID]*corev1.Pod{}
	for _, pod := range pods {
		if have := old[pod.UID]; have != nil {
			pod = have // its name is its content: nothing has changed
		}
		a.static[pod.UID] = pod
	}
	now := a.static
	a.mu.Unlock()
	for uid := range old {
		if now[uid] == nil {
			a.workers.Removed(uid)
		}
	}
	for uid, pod := range now {
		if old[uid] == nil {
			a.accept(ctx, pod, false, true)
		}
		a.ensureMirror(ctx, pod)
	}
	for _, mirror := range a.mirrorList() {
		if now[types.UID(mirror.Annotations[staticpods.MirrorAnnotation])] == nil {
			a.deleteMirror(ctx, mirror)
		}
	}
}

func (a *agent) mirrorList() []*corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*corev1.Pod
	for _, m := range a.mirrors {
		out = append(out, m)
	}
	return out
}

func (a *agent) mirrorChanged(ctx context.Context, mirror *corev1.Pod) {
	uid := types.UID(mirror.Annotations[staticpods.MirrorAnnotation])
	a.mu.Lock()
	a.mirrors[types.NamespacedName{Namespace: mirror.Namespace, Name: mirror.Name}] = mirror
	static := a.static[uid]
	a.mu.Unlock()
	a.status.Observe(mirror)
	if static == nil || mirror.DeletionTimestamp != nil {
		a.deleteMirror(ctx, mirror)
		return
	}
	a.workers.Poke(uid)
}

func (a *agent) mirrorDeleted(ctx context.Context, mirror *corev1.Pod) {
	a.mu.Lock()
	delete(a.mirrors, types.NamespacedName{Namespace: mirror.Namespace, Name: mirror.Name})
	var again *corev1.Pod
	for _, pod := range a.static {
		if pod.Namespace == mirror.Namespace && pod.Name == mirror.Name {
			again = pod
		}
	}
	a.mu.Unlock()
	a.status.Forget(mirror.UID)
	if again != nil {
		a.ensureMirror(ctx, again)
	}
}

func (a *agent) ensureMirrors(ctx context.Context) {
	a.mu.Lock()
	static := maps.Clone(a.static)
	a.mu.Unlock()
	for _, pod := range static {
		a.ensureMirror(ctx, pod)
	}
}

// ensureMirror shows a static pod in the API. If that fails now, the next change of the node or the folder tries again.
func (a *agent) ensureMirror(ctx context.Context, pod *corev1.Pod) {
	if a.node.Node().UID == "" {
		return // no node to own it yet: the node's watch comes back here
	}
	a.mu.Lock()
	have := a.mirrors[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}]
	a.mu.Unlock()
	if have != nil {
		if have.Annotations[staticpods.MirrorAnnotation] != pod.Annotations[staticpods.HashAnnotation] {
			a.deleteMirror(ctx, have)
		}
		return
	}
	_, err := a.client.CoreV1().Pods(pod.Namespace).Create(ctx, staticpods.Mirror(pod, a.node.Node()), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		klog.FromContext(ctx).Info("Mirror pod not created", "pod", klog.KObj(pod), "err", err)
	}
}

func (a *agent) deleteMirror(ctx context.Context, mirror *corev1.Pod) {
	zero := int64(0)
	err := a.client.CoreV1().Pods(mirror.Namespace).Delete(ctx, mirror.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &mirror.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		klog.FromContext(ctx).Info("Mirror pod not deleted", "pod", klog.KObj(mirror), "err", err)
	}
}

// shownBy is the API object that carries a pod's status: itself, or the mirror of a static pod.
func (a *agent) shownBy(pod *corev1.Pod) *corev1.Pod {
	if !staticpods.IsStatic(pod) {
		return pod
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	mirror := a.mirrors[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}]
	if mirror == nil || mirror.Annotations[staticpods.MirrorAnnotation] != pod.Annotations[staticpods.HashAnnotation] {
		return nil
	}
	return mirror
}

// Pods are all pods of the node with their newest status, mirrors in place of static pods.
func (a *agent) Pods() []*corev1.Pod {
	a.mu.Lock()
	var out []*corev1.Pod
	for _, pod := range a.api {
		out = append(out, pod)
	}
	for _, pod := range a.mirrors {
		out = append(out, pod)
	}
	a.mu.Unlock()
	for i, pod := range out {
		if status, ok := a.status.Latest(pod.UID); ok {
			copied := *pod
			copied.Status = status
			out[i] = &copied
		}
	}
	slices.SortFunc(out, func(x, y *corev1.Pod) int { return x.CreationTimestamp.Compare(y.CreationTimestamp.Time) })
	return out
}
