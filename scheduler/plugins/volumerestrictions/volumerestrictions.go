// Package volumerestrictions keeps a claim with access mode ReadWriteOncePod to one pod, and an iSCSI disk to one node unless
// everyone reads only.
package volumerestrictions

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	corelisters "k8s.io/client-go/listers/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/plugins/hint"
)

// Name is the plugin's name.
const Name = "VolumeRestrictions"

const stateKey fwk.StateKey = "PreFilter" + Name

// Plugin is the plugin.
type Plugin struct {
	handle fwk.Handle
	claims corelisters.PersistentVolumeClaimLister
}

// New makes the plugin.
func New(_ context.Context, _ runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	return &Plugin{handle: h, claims: h.SharedInformerFactory().Core().V1().PersistentVolumeClaims().Lister()}, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

type cycleState struct {
	exclusive sets.Set[string] // namespace/name of the pod's ReadWriteOncePod claims
	users     int              // pods that use one of them
	disks     bool
}

// Clone implements fwk.StateData.
func (s *cycleState) Clone() fwk.StateData {
	out := *s
	return &out
}

// PreFilter implements fwk.PreFilterPlugin.
func (p *Plugin) PreFilter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	s := &cycleState{exclusive: sets.New[string](), disks: len(iscsi(pod)) > 0}
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim == nil {
			continue
		}
		claim, err := p.claims.PersistentVolumeClaims(pod.Namespace).Get(v.PersistentVolumeClaim.ClaimName)
		if apierrors.IsNotFound(err) {
			return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, err.Error())
		}
		if err != nil {
			return nil, fwk.AsStatus(fmt.Errorf("read claim: %w", err))
		}
		for _, mode := range claim.Spec.AccessModes {
			if mode == corev1.ReadWriteOncePod {
				s.exclusive.Insert(claim.Namespace + "/" + claim.Name)
			}
		}
	}
	if s.exclusive.Len() == 0 && !s.disks {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	for key := range s.exclusive {
		if !p.handle.SnapshotSharedLister().StorageInfos().IsPVCUsedByPods(key) {
			continue
		}
		for _, n := range nodes {
			s.users += n.GetPVCRefCounts()[key]
		}
	}
	state.Write(stateKey, s)
	return nil, nil
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (p *Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return p }

// AddPod implements fwk.PreFilterExtensions.
func (p *Plugin) AddPod(_ context.Context, state fwk.CycleState, _ *corev1.Pod, added fwk.PodInfo, _ fwk.NodeInfo) *fwk.Status {
	return shift(state, added.GetPod(), 1)
}

// RemovePod implements fwk.PreFilterExtensions.
func (p *Plugin) RemovePod(_ context.Context, state fwk.CycleState, _ *corev1.Pod, removed fwk.PodInfo, _ fwk.NodeInfo) *fwk.Status {
	return shift(state, removed.GetPod(), -1)
}

func shift(state fwk.CycleState, other *corev1.Pod, delta int) *fwk.Status {
	data, err := state.Read(stateKey)
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("read %s: %w", stateKey, err))
	}
	s := data.(*cycleState)
	for _, key := range nodeinfo.ClaimKeys(other) {
		if s.exclusive.Has(key) {
			s.users += delta
		}
	}
	return nil
}

// Filter implements fwk.FilterPlugin.
func (p *Plugin) Filter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	data, err := state.Read(stateKey)
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("read %s: %w", stateKey, err))
	}
	s := data.(*cycleState)
	if s.disks {
		for _, other := range node.GetPods() {
			if conflict(pod, other.GetPod()) {
				return fwk.NewStatus(fwk.Unschedulable, "node(s) had no available disk")
			}
		}
	}
	if s.users > 0 {
		return fwk.NewStatus(fwk.Unschedulable, "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode")
	}
	return nil
}

func iscsi(pod *corev1.Pod) []*corev1.ISCSIVolumeSource {
	var out []*corev1.ISCSIVolumeSource
	for i := range pod.Spec.Volumes {
		if d := pod.Spec.Volumes[i].ISCSI; d != nil {
			out = append(out, d)
		}
	}
	return out
}

func conflict(a, b *corev1.Pod) bool {
	for _, x := range iscsi(a) {
		for _, y := range iscsi(b) {
			if x.IQN == y.IQN && (!x.ReadOnly || !y.ReadOnly) {
				return true
			}
		}
	}
	return false
}

// EventsToRegister implements fwk.EnqueueExtensions.
func (p *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.On(fwk.AssignedPod, fwk.Delete, func(pod, gone, _ *corev1.Pod) bool {
			return gone == nil || conflict(pod, gone) || sets.New(nodeinfo.ClaimKeys(pod)...).HasAny(nodeinfo.ClaimKeys(gone)...)
		}),
		hint.Always(fwk.Node, fwk.Add),
		hint.On(fwk.PersistentVolumeClaim, fwk.Add|fwk.Update, func(pod *corev1.Pod, _, claim *corev1.PersistentVolumeClaim) bool {
			return claim != nil && sets.New(nodeinfo.ClaimKeys(pod)...).Has(claim.Namespace+"/"+claim.Name)
		}),
	}, nil
}
