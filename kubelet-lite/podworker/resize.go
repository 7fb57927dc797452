package podworker

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/podplan"
)

// resize changes the limits of a running container.
func (w *worker) resize(ctx context.Context, pod *corev1.Pod, _ *cri.Pod, a podplan.Action) error {
	c := container(pod, a.Container)
	if c == nil {
		return fmt.Errorf("container %s is not in the spec", a.Container)
	}
	return w.m.cfg.Runtime.Runtime.UpdateContainerResources(ctx, a.Target, &runtimeapi.ContainerResources{Linux: w.m.cfg.Node.Resources(pod, c)})
}
