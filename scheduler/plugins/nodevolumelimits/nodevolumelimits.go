// Package nodevolumelimits refuses nodes on which a CSI driver can attach no further volume, or is missing that says that it must be there.
package nodevolumelimits

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/component-helpers/storage/volume"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/utils/ptr"

	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/plugins/hint"
)

// Name is the plugin's name.
const Name = "NodeVolumeLimits"

// Plugin is the plugin.
type Plugin struct {
	drivers     storagelisters.CSIDriverLister
	nodes       storagelisters.CSINodeLister
	claims      corelisters.PersistentVolumeClaimLister
	volumes     corelisters.PersistentVolumeLister
	classes     storagelisters.StorageClassLister
	attachments storagelisters.VolumeAttachmentLister
}

// New makes the plugin.
func New(_ context.Context, _ runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	f := h.SharedInformerFactory()
	return &Plugin{
		drivers: f.Storage().V1().CSIDrivers().Lister(),
		nodes:   f.Storage().V1().CSINodes().Lister(), claims: f.Core().V1().PersistentVolumeClaims().Lister(),
		volumes: f.Core().V1().PersistentVolumes().Lister(), classes: f.Storage().V1().StorageClasses().Lister(),
		attachments: f.Storage().V1().VolumeAttachments().Lister(),
	}, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

// PreFilter implements fwk.PreFilterPlugin.
func (*Plugin) PreFilter(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return nil, nil
		}
	}
	return nil, fwk.NewStatus(fwk.Skip)
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (*Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// attached is a volume of a driver: its handle, or its claim while it has none.
type attached struct{ driver, handle string }

// Filter implements fwk.FilterPlugin.
func (p *Plugin) Filter(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, info fwk.NodeInfo) *fwk.Status {
	node, err := p.nodes.Get(info.Node().Name)
	if apierrors.IsNotFound(err) {
		node, err = &storagev1.CSINode{}, nil // no driver is there
	}
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("read CSINode: %w", err))
	}
	wanted := map[attached]bool{}
	p.collect(pod, wanted)
	limits, installed := map[string]int{}, sets.New[string]()
	for _, d := range node.Spec.Drivers {
		installed.Insert(d.Name)
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			limits[d.Name] = int(*d.Allocatable.Count)
		}
	}
	for v := range wanted {
		if installed.Has(v.driver) {
			continue
		}
		d, err := p.drivers.Get(v.driver)
		if err == nil && ptr.Deref(d.Spec.PreventPodSchedulingIfMissing, false) {
			return fwk.NewStatus(fwk.Unschedulable, v.driver+" CSI driver is not installed on the node")
		}
	}
	if len(limits) == 0 || len(wanted) == 0 {
		return nil
	}
	used, err := p.inUse(info)
	if err != nil {
		return fwk.AsStatus(err)
	}
	count, fresh := map[string]int{}, map[string]int{}
	for v := range used {
		count[v.driver]++
	}
	for v := range wanted {
		if !used[v] {
			fresh[v.driver]++
		}
	}
	for driver, n := range fresh {
		if limit, ok := limits[driver]; ok && count[driver]+n > limit {
			return fwk.NewStatus(fwk.Unschedulable, "node(s) exceed max volume count")
		}
	}
	return nil
}

// inUse are the volumes of the node's pods and those that are still attached to it.
func (p *Plugin) inUse(info fwk.NodeInfo) (map[attached]bool, error) {
	used := map[attached]bool{}
	for _, other := range info.GetPods() {
		p.collect(other.GetPod(), used)
	}
	list, err := p.attachments.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list volume attachments: %w", err)
	}
	for _, a := range list {
		if a.Spec.NodeName != info.Node().Name || a.Spec.Source.PersistentVolumeName == nil {
			continue
		}
		if v, err := p.volumes.Get(*a.Spec.Source.PersistentVolumeName); err == nil && v.Spec.CSI != nil {
			used[attached{v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle}] = true
		}
	}
	return used, nil
}

// collect adds a pod's CSI volumes, but for those inline, which upstream does not count. What is not known (a claim that is gone) takes
// no place.
func (p *Plugin) collect(pod *corev1.Pod, into map[attached]bool) {
	for _, key := range nodeinfo.ClaimKeys(pod) {
		claim, err := p.claims.PersistentVolumeClaims(pod.Namespace).Get(key[len(pod.Namespace)+1:])
		if err != nil {
			continue
		}
		if claim.Spec.VolumeName == "" {
			if class, err := p.classes.Get(volume.GetPersistentVolumeClaimClass(claim)); err == nil {
				into[attached{class.Provisioner, key}] = true
			}
			continue
		}
		if v, err := p.volumes.Get(claim.Spec.VolumeName); err == nil && v.Spec.CSI != nil {
			into[attached{v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle}] = true
		}
	}
}

// EventsToRegister implements fwk.EnqueueExtensions.
func (*Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.Always(fwk.CSINode, fwk.Add|fwk.Update),
		hint.On(fwk.AssignedPod, fwk.Delete, func(_, gone, _ *corev1.Pod) bool { return gone == nil || len(gone.Spec.Volumes) > 0 }),
		hint.On(fwk.PersistentVolumeClaim, fwk.Add|fwk.Update, func(pod *corev1.Pod, _, c *corev1.PersistentVolumeClaim) bool {
			return c != nil && c.Namespace == pod.Namespace
		}),
		hint.On(fwk.VolumeAttachment, fwk.Delete, func(*corev1.Pod, *storagev1.VolumeAttachment, *storagev1.VolumeAttachment) bool { return true }),
	}, nil
}
