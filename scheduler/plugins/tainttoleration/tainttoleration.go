// Package tainttoleration refuses nodes with taints that the pod does not tolerate, and prefers those with fewer soft ones.
package tainttoleration

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/plugins/hint"
	"keelson.dev/scheduler/plugins/normalize"
)

// Name is the plugin's name.
const Name = "TaintToleration"

const stateKey fwk.StateKey = "PreScore" + Name

// Plugin is the plugin.
type Plugin struct{}

// New makes the plugin.
func New(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) { return Plugin{}, nil }

// Name implements fwk.Plugin.
func (Plugin) Name() string { return Name }

func hard(t *corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
}

func tolerated(logger klog.Logger, pod *corev1.Pod, node *corev1.Node) bool {
	_, found := corev1helpers.FindMatchingUntoleratedTaint(logger, node.Spec.Taints, pod.Spec.Tolerations, hard, true)
	return !found
}

// Filter implements fwk.FilterPlugin.
func (Plugin) Filter(ctx context.Context, _ fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	if tolerated(klog.FromContext(ctx), pod, node.Node()) {
		return nil
	}
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "node(s) had untolerated taint(s)")
}

type softTolerations []corev1.Toleration

// Clone implements fwk.StateData.
func (s softTolerations) Clone() fwk.StateData { return s }

// PreScore implements fwk.PreScorePlugin.
func (Plugin) PreScore(_ context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) *fwk.Status {
	var soft softTolerations
	for _, t := range pod.Spec.Tolerations {
		if t.Effect == "" || t.Effect == corev1.TaintEffectPreferNoSchedule {
			soft = append(soft, t)
		}
	}
	state.Write(stateKey, soft)
	return nil
}

// Score implements fwk.ScorePlugin: the number of soft taints that the pod does not tolerate.
func (Plugin) Score(ctx context.Context, state fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	data, err := state.Read(stateKey)
	if err != nil {
		return 0, fwk.AsStatus(fmt.Errorf("read %s: %w", stateKey, err))
	}
	soft, _ := data.(softTolerations)
	logger := klog.FromContext(ctx)
	var count int64
	for _, taint := range node.Node().Spec.Taints {
		if taint.Effect == corev1.TaintEffectPreferNoSchedule &&
			!corev1helpers.TolerationsTolerateTaint(logger, soft, &taint, true) {
			count++
		}
	}
	return count, nil
}

// ScoreExtensions implements fwk.ScorePlugin.
func (p Plugin) ScoreExtensions() fwk.ScoreExtensions { return p }

// NormalizeScore implements fwk.ScoreExtensions.
func (Plugin) NormalizeScore(_ context.Context, _ fwk.CycleState, _ *corev1.Pod, scores fwk.NodeScoreList) *fwk.Status {
	normalize.Linear(true, scores)
	return nil
}

// EventsToRegister implements fwk.EnqueueExtensions.
func (Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.On(fwk.Node, fwk.Add|fwk.UpdateNodeTaint, func(pod *corev1.Pod, old, node *corev1.Node) bool {
			if node == nil || !tolerated(klog.Background(), pod, node) {
				return false
			}
			return old == nil || !equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints)
		}),
		hint.Always(fwk.TargetPod, fwk.UpdatePodToleration),
	}, nil
}
