// Package imagelocality prefers nodes that hold the pod's images already.
package imagelocality

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
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
	return score(imagesOf(pod), images, len(all)), nil
}

func score(wanted []string, held map[string]*fwk.ImageStateSummary, numNodes int) int64 {
	var sum int64
	for _, image := range wanted {
		if state, ok := held[image]; ok {
			sum += int64(float64(state.Size) * float64(state.NumNodes) / float64(numNodes))
		}
	}
	upper := maxContainer * int64(len(wanted))
	return fwk.MaxScore * (min(max(sum, minThreshold), upper) - minThreshold) / (upper - minThreshold)
}

func imagesOf(pod *corev1.Pod) []string {
	var out []string
	for i := range pod.Spec.InitContainers {
		out = append(out, normalized(pod.Spec.InitContainers[i].Image))
	}
	for i := range pod.Spec.Containers {
		out = append(out, normalized(pod.Spec.Containers[i].Image))
	}
	for _, v := range pod.Spec.Volumes {
		if v.Image != nil {
			out = append(out, normalized(v.Image.Reference))
		}
	}
	return out
}

type column struct {
	table  *columns.Table
	images []string
}

// LocalScore implements columns.LocalScore.
func (*Plugin) LocalScore(t *columns.Table, pod fwk.PodInfo) columns.Score {
	return column{t, imagesOf(pod.GetPod())}
}

// Rate implements columns.Score.
func (c column) Rate(slots []int32, raw []int64) {
	known := c.Version() != 0
	for _, slot := range slots {
		raw[slot] = 0
		if known {
			raw[slot] = score(c.images, c.table.Nodes[slot].GetImageStates(), c.table.Count())
		}
	}
}

// Version implements columns.Versioned: how far the images have spread counts too. It is 0 while no node has any of them.
func (c column) Version() uint64 {
	var v uint64
	for _, image := range c.images {
		v *= 1_000_003
		if state, ok := c.table.Images[image]; ok {
			v += uint64(state.NumNodes)*31 + uint64(state.Size) + 1 //nolint:gosec // only compared
		}
	}
	if v == 0 {
		return 0
	}
	return v*1_000_003 + uint64(c.table.Count()) //nolint:gosec // only compared
}

// OfNode implements columns.Score.
func (column) OfNode() bool { return true }

// Scale implements columns.Score.
func (column) Scale() columns.Scale { return columns.AsIs }

// ScoreExtensions implements fwk.ScorePlugin.
func (*Plugin) ScoreExtensions() fwk.ScoreExtensions { return nil }

// normalized adds the tag that a reference without one means.
func normalized(image string) string {
	if strings.LastIndex(image, ":") <= strings.LastIndex(image, "/") {
		return image + ":latest"
	}
	return image
}
