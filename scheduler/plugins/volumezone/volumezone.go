// Package volumezone refuses nodes outside the zones that a bound volume is labelled with. Volumes of CSI drivers say the same by
// node affinity; labels are the older way.
package volumezone

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/plugins/hint"
)

// Name is the plugin's name.
const Name = "VolumeZone"

const stateKey fwk.StateKey = "PreFilter" + Name

// Plugin is the plugin.
type Plugin struct {
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
}

// New makes the plugin.
func New(_ context.Context, _ runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	core := h.SharedInformerFactory().Core().V1()
	return &Plugin{claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister()}, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

// topology is a label that a volume has; several values are joined by "__".
type topology struct {
	key    string
	values []string
}

type topologies []topology

// Clone implements fwk.StateData.
func (t topologies) Clone() fwk.StateData { return t }

func topologyKeys() []string {
	return []string{
		corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	}
}

// PreFilter implements fwk.PreFilterPlugin.
func (p *Plugin) PreFilter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	var found topologies
	for _, key := range nodeinfo.ClaimKeys(pod) {
		claim, err := p.claims.PersistentVolumeClaims(pod.Namespace).Get(key[len(pod.Namespace)+1:])
		if apierrors.IsNotFound(err) {
			continue // VolumeBinding says so
		}
		if err != nil {
			return nil, fwk.AsStatus(fmt.Errorf("read claim: %w", err))
		}
		v, err := p.volumes.Get(claim.Spec.VolumeName)
		if claim.Spec.VolumeName == "" || apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fwk.AsStatus(fmt.Errorf("read volume: %w", err))
		}
		for _, label := range topologyKeys() {
			if value, ok := v.Labels[label]; ok {
				found = append(found, topology{label, strings.Split(value, "__")})
			}
		}
	}
	if len(found) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	state.Write(stateKey, found)
	return nil, nil
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (*Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter implements fwk.FilterPlugin.
func (*Plugin) Filter(_ context.Context, state fwk.CycleState, _ *corev1.Pod, info fwk.NodeInfo) *fwk.Status {
	data, err := state.Read(stateKey)
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("read %s: %w", stateKey, err))
	}
	node := info.Node().Labels
	hasAny := slices.ContainsFunc(topologyKeys(), func(key string) bool { _, ok := node[key]; return ok })
	if !hasAny {
		return nil // a cluster without zones
	}
	for _, t := range data.(topologies) {
		value, ok := node[t.key]
		if !ok {
			value, ok = node[strings.Replace(t.key, "failure-domain.beta.kubernetes.io", "topology.kubernetes.io", 1)]
		}
		if !ok || !slices.Contains(t.values, value) {
			return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "node(s) had no available volume zone")
		}
	}
	return nil
}

// EventsToRegister implements fwk.EnqueueExtensions.
func (*Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.Always(fwk.Node, fwk.Add|fwk.UpdateNodeLabel),
		hint.Always(fwk.PersistentVolumeClaim, fwk.Add|fwk.Update),
		hint.Always(fwk.PersistentVolume, fwk.Add|fwk.Update),
	}, nil
}
