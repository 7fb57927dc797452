// Package imagelocality prefers nodes that hold the pod's images already.
package imagelocality

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"
)

// Name is the plugin's name.
const Name = "ImageLocality"

// Images below the lower size are fetched too fast to matter; above the upper size per container more does not count.
const (
	mb           int64 = 1024 * 1024
	minThreshold int64 = 23 * mb
	maxContainer int64 = 1000 * mb
)

// Plugin is the plugin.
type Plugin struct{ handle fwk.Handle }

// New makes the plugin.
func New(_ context.Context, _ runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	return &Plugin{h}, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

// EventsToRegister implements fwk.EnqueueExtensions: it refuses no pod.
func (*Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) { return nil, nil }

// Score implements fwk.ScorePlugin. An image counts in proportion to the share of nodes that hold it, so that a pod is not drawn
// to the one node where it ran before.
func (p *Plugin) Score(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	images := node.GetImageStates()
	if len(images) == 0 {
		return 0, nil
	}
	all, err := p.handle.SnapshotSharedLister().NodeInfos().List()
	if err != nil {
		return 0, fwk.AsStatus(fmt.Errorf("list nodes: %w", err))
	}
	var sum, count int64
	add := func(image string) {
		count++
		if state, ok := images[normalized(image)]; ok {
			sum += int64(float64(state.Size) * float64(state.NumNodes) / float64(len(all)))
		}
	}
	for i := range pod.Spec.InitContainers {
		add(pod.Spec.InitContainers[i].Image)
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].Image)
	}
	for _, v := range pod.Spec.Volumes {
		if v.Image != nil {
			add(v.Image.Reference)
		}
	}
	upper := maxContainer * count
	return fwk.MaxScore * (min(max(sum, minThreshold), upper) - minThreshold) / (upper - minThreshold), nil
}

// ScoreExtensions implements fwk.ScorePlugin.
func (*Plugin) ScoreExtensions() fwk.ScoreExtensions { return nil }

// normalized adds the tag that a reference without one means.
func normalized(image string) string {
	if strings.LastIndex(image, ":") <= strings.LastIndex(image, "/") {
		return image + ":latest"
	}
	return image
}
