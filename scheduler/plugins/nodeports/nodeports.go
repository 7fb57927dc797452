// Package nodeports refuses nodes on which a host port of the pod is taken.
package nodeports

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/plugins/hint"
)

// Name is the plugin's name.
const Name = "NodePorts"

const stateKey fwk.StateKey = "PreFilter" + Name

// Plugin is the plugin.
type Plugin struct{}

// New makes the plugin.
func New(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) { return Plugin{}, nil }

// Name implements fwk.Plugin.
func (Plugin) Name() string { return Name }

type wanted []corev1.ContainerPort

// Clone implements fwk.StateData.
func (w wanted) Clone() fwk.StateData { return w }

// PreFilter implements fwk.PreFilterPlugin.
func (Plugin) PreFilter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	ports := wanted(nodeinfo.HostPorts(pod))
	if len(ports) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	state.Write(stateKey, ports)
	return nil, nil
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter implements fwk.FilterPlugin.
func (Plugin) Filter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	ports, err := state.Read(stateKey)
	if err != nil {
		ports = wanted(nodeinfo.HostPorts(pod)) // a caller that runs filters alone
	}
	if ports.(wanted).taken(node) {
		return refusal()
	}
	return nil
}

func (w wanted) taken(node fwk.NodeInfo) bool {
	used := node.GetUsedPorts()
	return slices.ContainsFunc(w, func(p corev1.ContainerPort) bool { return used.CheckConflict(p.HostIP, string(p.Protocol), p.HostPort) })
}

func refusal() *fwk.Status {
	return fwk.NewStatus(fwk.Unschedulable, "node(s) didn't have free ports for the requested pod ports").WithPlugin(Name)
}

type column struct {
	table   *columns.Table
	ports   wanted
	refused *fwk.Status
}

// LocalFilter implements columns.LocalFilter.
func (Plugin) LocalFilter(t *columns.Table, pod fwk.PodInfo) columns.Filter {
	ports := wanted(nodeinfo.HostPorts(pod.GetPod()))
	if len(ports) == 0 {
		return nil
	}
	return column{t, ports, refusal()}
}

// Refuse implements columns.Filter.
func (c column) Refuse(slots []int32, refused []*fwk.Status) {
	for _, slot := range slots {
		if refused[slot] == nil && c.ports.taken(c.table.Nodes[slot]) {
			refused[slot] = c.refused
		}
	}
}

// OfNode implements columns.Filter.
func (column) OfNode() bool { return false }

// EventsToRegister implements fwk.EnqueueExtensions.
func (Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.Always(fwk.Node, fwk.Add),
		hint.On(fwk.AssignedPod, fwk.Delete, func(pod *corev1.Pod, gone, _ *corev1.Pod) bool {
			if gone == nil {
				return true
			}
			used := fwk.HostPortInfo{}
			for _, p := range nodeinfo.HostPorts(gone) {
				used.Add(p.HostIP, string(p.Protocol), p.HostPort)
			}
			return slices.ContainsFunc(nodeinfo.HostPorts(pod), func(p corev1.ContainerPort) bool {
				return used.CheckConflict(p.HostIP, string(p.Protocol), p.HostPort)
			})
		}),
	}, nil
}
