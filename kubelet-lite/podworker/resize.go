package podworker

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/podplan"
)

// resourceState is how a pod's resources stand: what the spec asks for is first granted (allocated), then brought to the containers.
type resourceState struct {
	allocated map[string]corev1.ResourceRequirements // by container; those of the pod as a whole stand under wholePod
	applied   *corev1.ResourceRequirements           // of the pod as a whole, as its control group enforces them
	pending   *corev1.PodCondition                   // asked for and not granted
	resizing  bool                                   // granted and not yet in force everywhere
}

// wholePod is the key of the pod's own resources beside those of its containers, whose names are not empty.
const wholePod = ""

// allocate grants a changed spec's resources if the node has them, and returns the pod with those that are granted.
func (w *worker) allocate(pod *corev1.Pod) *corev1.Pod {
	r := &w.resources
	if r.allocated == nil {
		r.allocated = allocatedBefore(pod)
		r.resizing = hasCondition(pod, corev1.PodResizeInProgress)
		r.applied = appliedBefore(pod, r)
	}
	if !differs(pod, r.allocated) || pod.DeletionTimestamp != nil {
		r.pending = nil
		return pod
	}
	reason, message := w.m.cfg.Grant(pod)
	if reason == "" {
		r.allocated, r.pending, r.resizing = wanted(pod), nil, true
		return pod
	}
	r.pending = &corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: reason, Message: message}
	return withResources(pod, r.allocated)
}

// allocatedBefore is what an earlier agent had granted, as its status tells; for a new pod it is what it asks for.
func allocatedBefore(pod *corev1.Pod) map[string]corev1.ResourceRequirements {
	out := wanted(pod)
	if pod.Status.ObservedGeneration == pod.Generation && !hasCondition(pod, corev1.PodResizePending) {
		return out
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range list {
			if s.AllocatedResources != nil && s.Resources != nil {
				out[s.Name] = corev1.ResourceRequirements{Requests: s.AllocatedResources, Limits: s.Resources.Limits, Claims: out[s.Name].Claims}
			}
		}
	}
	if own := pod.Spec.Resources; own != nil && pod.Status.Resources != nil {
		out[wholePod] = restricted(pod.Status.AllocatedResources, pod.Status.Resources.Limits, own)
	}
	return out
}

// appliedBefore is what the pod's group enforces when its worker starts: that which was granted, unless an earlier agent was at it.
func appliedBefore(pod *corev1.Pod, r *resourceState) *corev1.ResourceRequirements {
	granted, ok := r.allocated[wholePod]
	if !ok {
		return nil
	}
	if r.resizing && pod.Status.Resources != nil {
		granted = restricted(pod.Status.Resources.Requests, pod.Status.Resources.Limits, &granted)
	}
	return &granted
}

// restricted are requests and limits, but only of the resources that others name.
func restricted(requests, limits corev1.ResourceList, others *corev1.ResourceRequirements) corev1.ResourceRequirements {
	pick := func(values, names corev1.ResourceList) corev1.ResourceList {
		out := corev1.ResourceList{}
		for name, value := range names {
			if v, ok := values[name]; ok {
				value = v
			}
			out[name] = value
		}
		return out
	}
	return corev1.ResourceRequirements{Requests: pick(requests, others.Requests), Limits: pick(limits, others.Limits)}
}

func hasCondition(pod *corev1.Pod, t corev1.PodConditionType) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == t {
			return true
		}
	}
	return false
}

func wanted(pod *corev1.Pod) map[string]corev1.ResourceRequirements {
	out := map[string]corev1.ResourceRequirements{}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			out[list[i].Name] = list[i].Resources
		}
	}
	if pod.Spec.Resources != nil {
		out[wholePod] = *pod.Spec.Resources
	}
	return out
}

func differs(pod *corev1.Pod, allocated map[string]corev1.ResourceRequirements) bool {
	for name, want := range wanted(pod) {
		if !equality.Semantic.DeepEqual(want, allocated[name]) {
			return true
		}
	}
	return false
}

// withResources is the pod with other resources in its spec.
func withResources(pod *corev1.Pod, resources map[string]corev1.ResourceRequirements) *corev1.Pod {
	out := *pod
	out.Spec = *pod.Spec.DeepCopy()
	for _, list := range [][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers} {
		for i := range list {
			if r, ok := resources[list[i].Name]; ok {
				list[i].Resources = r
			}
		}
	}
	if r, ok := resources[wholePod]; ok {
		out.Spec.Resources = &r
	}
	return &out
}

// compare finds the running containers whose resources are not those that were granted, and those that run on other CPUs than they are to.
// It dooms those that must be restarted for it, and reports whether any can be changed in place.
func (w *worker) compare(pod *corev1.Pod, seen *cri.Pod) (inPlace bool) {
	settled, resizing := true, w.resources.resizing
	w.eachStale(pod, seen, resizing, w.placed, func(c *corev1.Container, inst *cri.Container, want *runtimeapi.LinuxContainerResources) {
		settled = false
		if resizing && mustRestart(c, inst.Resources, want) {
			w.doomed[inst.ID] = fmt.Sprintf("Container %s resize requires restart", c.Name)
			return
		}
		inPlace = true
	})
	if granted, ok := w.resources.allocated[wholePod]; ok && resizing && !equality.Semantic.DeepEqual(w.resources.applied, &granted) {
		settled, inPlace = false, true
	}
	if settled {
		w.resources.resizing = false
	}
	return inPlace
}

// eachStale calls f for each running container whose resources are not as granted, while they are being changed, or whose CPUs are not those
// that it is to have now. Placed are those that it was given last, if that was since its start.
func (w *worker) eachStale(pod *corev1.Pod, seen *cri.Pod, resizing bool, placed map[string]string, f func(*corev1.Container, *cri.Container, *runtimeapi.LinuxContainerResources)) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			inst := seen.Container(list[i].Name)
			if inst == nil || inst.State != cri.Running || inst.Resources == nil {
				continue
			}
			want := w.m.cfg.Node.Resources(pod, &list[i])
			cpus, ok := placed[inst.ID]
			if !ok {
				cpus = inst.Resources.CpusetCpus
			}
			if resizing && (cpuDiffers(inst.Resources, want) || memoryDiffers(inst.Resources, want)) || want.CpusetCpus != "" && want.CpusetCpus != cpus {
				f(&list[i], inst, want)
			}
		}
	}
}

func cpuDiffers(have, want *runtimeapi.LinuxContainerResources) bool {
	return have.CpuShares != want.CpuShares || max(have.CpuQuota, 0) != max(want.CpuQuota, 0)
}

func memoryDiffers(have, want *runtimeapi.LinuxContainerResources) bool {
	return max(have.MemoryLimitInBytes, 0) != max(want.MemoryLimitInBytes, 0)
}

func mustRestart(c *corev1.Container, have, want *runtimeapi.LinuxContainerResources) bool {
	for _, p := range c.ResizePolicy {
		if p.RestartPolicy == corev1.RestartContainer &&
			(p.ResourceName == corev1.ResourceCPU && cpuDiffers(have, want) || p.ResourceName == corev1.ResourceMemory && memoryDiffers(have, want)) {
			return true
		}
	}
	return false
}

// resize brings the granted resources to the running containers. The pod's own group is first made large enough for the old and the
// new ones, and then as small as it may be.
func (w *worker) resize(ctx context.Context, pod *corev1.Pod, seen *cri.Pod, last *corev1.PodStatus, resizing bool, placed map[string]string) (func(), error) {
	if err := w.m.cfg.Cgroups.UpdatePod(largest(pod, last)); err != nil {
		return nil, err
	}
	var errs []error
	w.eachStale(pod, seen, resizing, placed, func(c *corev1.Container, inst *cri.Container, want *runtimeapi.LinuxContainerResources) {
		if resizing && mustRestart(c, inst.Resources, want) {
			return
		}
		placed[inst.ID] = want.CpusetCpus
		if want.CpuQuota == 0 && inst.Resources.CpuQuota > 0 {
			want.CpuQuota = -1 // zero would leave it as it is
		}
		if want.MemoryLimitInBytes == 0 && inst.Resources.MemoryLimitInBytes > 0 {
			want.MemoryLimitInBytes = -1
		}
		want.OomScoreAdj = 0 // cannot change in a running container
		if err := w.m.cfg.Runtime.Runtime.UpdateContainerResources(ctx, inst.ID, &runtimeapi.ContainerResources{Linux: want}); err != nil {
			errs = append(errs, fmt.Errorf("resize container %s: %w", c.Name, err))
		}
	})
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := w.m.cfg.Cgroups.UpdatePod(pod); err != nil {
		return nil, err
	}
	return func() { w.resources.applied, w.placed = pod.Spec.Resources, placed }, nil
}

// largest is the pod with the larger of its granted and its reported limits and requests.
func largest(pod *corev1.Pod, last *corev1.PodStatus) *corev1.Pod {
	if last == nil {
		return pod
	}
	resources := wanted(pod)
	for _, list := range [][]corev1.ContainerStatus{last.InitContainerStatuses, last.ContainerStatuses} {
		for _, s := range list {
			if have, ok := resources[s.Name]; ok && s.Resources != nil {
				r := *have.DeepCopy()
				raise(r.Requests, s.Resources.Requests)
				raise(r.Limits, s.Resources.Limits)
				resources[s.Name] = r
			}
		}
	}
	if own, ok := resources[wholePod]; ok && last.Resources != nil {
		r := *own.DeepCopy()
		raise(r.Requests, last.Resources.Requests)
		raise(r.Limits, last.Resources.Limits)
		resources[wholePod] = r
	}
	return withResources(pod, resources)
}

func raise(list, other corev1.ResourceList) {
	for name, have := range list {
		if q, ok := other[name]; ok && q.Cmp(have) > 0 {
			list[name] = q
		}
	}
}

func (w *worker) resizeConditions(pod *corev1.Pod) []corev1.PodCondition {
	var out []corev1.PodCondition
	if w.resources.pending != nil {
		out = append(out, *w.resources.pending)
	}
	if w.resources.resizing {
		c := corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation}
		if s, failed := w.setbacks[podplan.Key{Kind: podplan.Resize}]; failed {
			c.Reason, c.Message = corev1.PodReasonError, s.Message
		}
		out = append(out, c)
	}
	return out
}
