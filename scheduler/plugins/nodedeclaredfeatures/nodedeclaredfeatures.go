// Package nodedeclaredfeatures refuses nodes whose kubelet does not declare a feature that the pod needs.
package nodedeclaredfeatures

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	ndf "k8s.io/component-helpers/nodedeclaredfeatures"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/plugins/hint"
)

// Name is the plugin's name.
const Name = "NodeDeclaredFeatures"

const stateKey fwk.StateKey = "PreFilter" + Name

// served is the version whose features are asked for: those that every kubelet of it has need not be declared.
const served = "1.37.0"

// Plugin is the plugin.
type Plugin struct{ version *version.Version }

// New makes the plugin.
func New(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) {
	return &Plugin{version.MustParse(served)}, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

type required struct{ ndf.FeatureSet }

// Clone implements fwk.StateData.
func (r required) Clone() fwk.StateData { return r }

func (p *Plugin) needs(pod *corev1.Pod) (ndf.FeatureSet, error) {
	return ndf.DefaultFramework.InferForPodScheduling(&ndf.PodInfo{Spec: &pod.Spec}, p.version)
}

// PreFilter implements fwk.PreFilterPlugin.
func (p *Plugin) PreFilter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	need, err := p.needs(pod)
	if err != nil {
		return nil, fwk.AsStatus(fmt.Errorf("infer the features that the pod needs: %w", err))
	}
	if need.IsEmpty() {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	state.Write(stateKey, required{need})
	return nil, nil
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (*Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter implements fwk.FilterPlugin.
func (*Plugin) Filter(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	data, err := state.Read(stateKey)
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("read %s: %w", stateKey, err))
	}
	ok, err := data.(required).IsSubset(node.GetNodeDeclaredFeatures())
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("compare features: %w", err))
	}
	if !ok {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "node(s) didn't match Pod's required features")
	}
	return nil
}

// EventsToRegister implements fwk.EnqueueExtensions.
func (p *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.On(fwk.Node, fwk.Add|fwk.UpdateNodeDeclaredFeature, func(pod *corev1.Pod, _, node *corev1.Node) bool {
			need, err := p.needs(pod)
			if err != nil || node == nil {
				return err != nil
			}
			ok, err := need.IsSubset(ndf.DefaultFramework.TryMap(node.Status.DeclaredFeatures))
			return ok || err != nil
		}),
		hint.Always(fwk.TargetPod, fwk.Update),
	}, nil
}
