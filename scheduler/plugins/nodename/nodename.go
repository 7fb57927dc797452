// Package nodename refuses every node but the one that the pod names.
package nodename

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
	"keelson.dev/scheduler/plugins/hint"
)

// Name is the plugin's name.
const Name = "NodeName"

// Plugin is the plugin.
type Plugin struct{}

// New makes the plugin.
func New(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) { return Plugin{}, nil }

// Name implements fwk.Plugin.
func (Plugin) Name() string { return Name }

// Filter implements fwk.FilterPlugin.
func (Plugin) Filter(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	if pod.Spec.NodeName == "" || pod.Spec.NodeName == node.Node().Name {
		return nil
	}
	return refusal()
}

func refusal() *fwk.Status {
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "node(s) didn't match the requested node name").WithPlugin(Name)
}

// LocalFilter implements columns.LocalFilter.
func (Plugin) LocalFilter(t *columns.Table, pod fwk.PodInfo) columns.Filter {
	name := pod.GetPod().Spec.NodeName
	if name == "" {
		return nil
	}
	refused := refusal()
	return columns.NodeFilter(func(slot int32) *fwk.Status {
		if t.Nodes[slot].Node().Name != name {
			return refused
		}
		return nil
	})
}

// EventsToRegister implements fwk.EnqueueExtensions.
func (Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{hint.Always(fwk.Node, fwk.Add)}, nil
}
