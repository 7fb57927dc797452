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

	"keelson.dev/scheduler/columns"
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

func tolerated(logger klog.Logger, pod *corev1.Pod, taints []corev1.Taint) bool {
	_, found := corev1helpers.FindMatchingUntoleratedTaint(logger, taints, pod.Spec.Tolerations, hard, true)
	return !found
}

func refusal() *fwk.Status {
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "node(s) had untolerated taint(s)").WithPlugin(Name)
}

// Filter implements fwk.FilterPlugin.
func (Plugin) Filter(ctx context.Context, _ fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	if tolerated(klog.FromContext(ctx), pod, node.Node().Spec.Taints) {
		return nil
	}
	return refusal()
}

type softTolerations []corev1.Toleration

// Clone implements fwk.StateData.
func (s softTolerations) Clone() fwk.StateData { return s }

// PreScore implements fwk.PreScorePlugin.
func (Plugin) PreScore(_ context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) *fwk.Status {
	state.Write(stateKey, softOf(pod))
	return nil
}

func softOf(pod *corev1.Pod) softTolerations {
	var soft softTolerations
	for _, t := range pod.Spec.Tolerations {
		if t.Effect == "" || t.Effect == corev1.TaintEffectPreferNoSchedule {
			soft = append(soft, t)
		}
	}
	return soft
}

// Score implements fwk.ScorePlugin: the number of soft taints that the pod does not tolerate.
func (Plugin) Score(ctx context.Context, state fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	data, err := state.Read(stateKey)
	if err != nil {
		return 0, fwk.AsStatus(fmt.Errorf("read %s: %w", stateKey, err))
	}
	soft, _ := data.(softTolerations)
	return soft.intolerable(klog.FromContext(ctx), node.Node().Spec.Taints), nil
}

// intolerable counts the soft taints that are not tolerated.
func (s softTolerations) intolerable(logger klog.Logger, taints []corev1.Taint) (count int64) {
	for i := range taints {
		if taints[i].Effect == corev1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(logger, s, &taints[i], true) {
			count++
		}
	}
	return count
}

// LocalFilter implements columns.LocalFilter: each set of taints is matched once.
func (Plugin) LocalFilter(t *columns.Table, pod fwk.PodInfo) columns.Filter {
	refused, p := refusal(), pod.GetPod()
	return columns.NodeFilter(perSet(t, nil, func(taints []corev1.Taint) *fwk.Status {
		if tolerated(klog.Background(), p, taints) {
			return nil
		}
		return refused
	}))
}

// LocalScore implements columns.LocalScore.
func (Plugin) LocalScore(t *columns.Table, pod fwk.PodInfo) columns.Score {
	soft := softOf(pod.GetPod())
	return columns.NodeScore{Reversed: true, Of: perSet(t, 0, func(taints []corev1.Taint) int64 {
		return soft.intolerable(klog.Background(), taints)
	})}
}

// maxSets bounds what is remembered of taints that come and go.
const maxSets = 1024

// perSet computes f once per set of taints; nodes without taints have the answer none.
func perSet[T any](t *columns.Table, none T, f func([]corev1.Taint) T) func(slot int32) T {
	known := map[*columns.TaintSet]T{}
	return func(slot int32) T {
		set := t.Taints[slot]
		if set == nil {
			return none
		}
		answer, ok := known[set]
		if !ok {
			if len(known) >= maxSets {
				clear(known)
			}
			answer = f(set.Taints)
			known[set] = answer
		}
		return answer
	}
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
			if node == nil || !tolerated(klog.Background(), pod, node.Spec.Taints) {
				return false
			}
			return old == nil || !equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints)
		}),
		hint.Always(fwk.TargetPod, fwk.UpdatePodToleration),
	}, nil
}
