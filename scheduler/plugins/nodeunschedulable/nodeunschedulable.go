// Package nodeunschedulable refuses cordoned nodes.
package nodeunschedulable

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
	"keelson.dev/scheduler/plugins/hint"
)

// Name is the plugin's name.
const Name = "NodeUnschedulable"

// Plugin is the plugin.
type Plugin struct{}

// New makes the plugin.
func New(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) { return Plugin{}, nil }

// Name implements fwk.Plugin.
func (Plugin) Name() string { return Name }

// Filter implements fwk.FilterPlugin.
func (Plugin) Filter(ctx context.Context, _ fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	if !node.Node().Spec.Unschedulable || tolerates(klog.FromContext(ctx), pod) {
		return nil
	}
	return refusal()
}

func refusal() *fwk.Status {
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "node(s) were unschedulable").WithPlugin(Name)
}

// LocalFilter implements columns.LocalFilter.
func (Plugin) LocalFilter(t *columns.Table, pod fwk.PodInfo) columns.Filter {
	if tolerates(klog.Background(), pod.GetPod()) {
		return nil
	}
	refused := refusal()
	return columns.NodeFilter(func(slot int32) *fwk.Status {
		if t.Unschedulable[slot] {
			return refused
		}
		return nil
	})
}

func tolerates(logger klog.Logger, pod *corev1.Pod) bool {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	return corev1helpers.TolerationsTolerateTaint(logger, pod.Spec.Tolerations, &taint, false)
}

// EventsToRegister implements fwk.EnqueueExtensions.
func (Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.On(fwk.Node, fwk.Add|fwk.UpdateNodeTaint, func(_ *corev1.Pod, _, node *corev1.Node) bool {
			return node != nil && !node.Spec.Unschedulable
		}),
		hint.On(fwk.TargetPod, fwk.UpdatePodToleration, func(_ *corev1.Pod, _, pod *corev1.Pod) bool {
			return pod != nil && tolerates(klog.Background(), pod)
		}),
	}, nil
}
