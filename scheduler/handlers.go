package scheduler

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/devices"
	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/queue"
)

// otherResources are the kinds, besides pods and nodes, whose changes plugins may ask for. Only those are watched that an enabled
// plugin names.
func (s *Scheduler) otherResources() map[fwk.EventResource]func() devices.Source {
	f := s.informers
	out := map[fwk.EventResource]func() devices.Source{
		fwk.PersistentVolume:      func() devices.Source { return f.Core().V1().PersistentVolumes().Informer() },
		fwk.PersistentVolumeClaim: func() devices.Source { return f.Core().V1().PersistentVolumeClaims().Informer() },
		fwk.StorageClass:          func() devices.Source { return f.Storage().V1().StorageClasses().Informer() },
		fwk.CSINode:               func() devices.Source { return f.Storage().V1().CSINodes().Informer() },
		fwk.CSIDriver:             func() devices.Source { return f.Storage().V1().CSIDrivers().Informer() },
		fwk.CSIStorageCapacity:    func() devices.Source { return f.Storage().V1().CSIStorageCapacities().Informer() },
		fwk.VolumeAttachment:      func() devices.Source { return f.Storage().V1().VolumeAttachments().Informer() },
	}
	if s.devices != nil {
		out[fwk.ResourceClaim] = func() devices.Source { return f.Resource().V1().ResourceClaims().Informer() }
		out[fwk.ResourceSlice], out[fwk.DeviceClass] = s.devices.Slices, s.devices.Classes
	}
	return out
}

// podInformer watches the pods that have not ended: those that have hold nothing that the scheduler counts.
func (s *Scheduler) podInformer() coreinformers.PodInformer {
	selector := fields.AndSelectors(
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)),
	).String()
	var tweak internalinterfaces.TweakListOptionsFunc = func(o *metav1.ListOptions) { o.FieldSelector = selector }
	s.informers.InformerFor(&corev1.Pod{}, func(client kubernetes.Interface, _ time.Duration) cache.SharedIndexInformer {
		return coreinformers.NewFilteredPodInformer(client, metav1.NamespaceAll, 0,
			cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, tweak)
	})
	return s.informers.Core().V1().Pods()
}

// watch connects the informers to the cache and the queue. The cache always learns of a change before the queue does.
func (s *Scheduler) watch(ctx context.Context, hints map[string][]queue.Hint) error {
	h := handlers{s, ctx}
	handle := func(what fwk.EventResource, source devices.Source, handler cache.ResourceEventHandler) error {
		r, err := source.AddEventHandler(handler)
		if err != nil {
			return fmt.Errorf("watch %s: %w", what, err)
		}
		s.handled = append(s.handled, r.HasSynced)
		return nil
	}
	if err := handle(fwk.Pod, s.podInformer().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: h.podAdded, UpdateFunc: h.podUpdated, DeleteFunc: h.podDeleted,
	}); err != nil {
		return err
	}
	if err := handle(fwk.Node, s.informers.Core().V1().Nodes().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: h.nodeAdded, UpdateFunc: h.nodeUpdated, DeleteFunc: h.nodeDeleted,
	}); err != nil {
		return err
	}
	others := s.otherResources()
	for _, list := range hints {
		for _, hint := range list {
			resource := hint.Event.Resource
			source, ok := others[resource]
			if !ok {
				continue
			}
			delete(others, resource)
			if err := handle(resource, source(), h.other(resource)); err != nil {
				return err
			}
		}
	}
	return nil
}

// handlers translates watch events. Each runs on its informer's goroutine.
type handlers struct {
	*Scheduler
	ctx context.Context
}

// maxBehind bounds the changes that wait for the next decision, which may be long in coming.
const maxBehind = 8192

// relieve lets the snapshot take over what has piled up.
func (h handlers) relieve() {
	if h.cache.Behind() < maxBehind {
		return
	}
	h.deciding.Lock()
	defer h.deciding.Unlock()
	h.cache.UpdateSnapshot(h.snapshot)
}

func (h handlers) info(pod *corev1.Pod) *nodeinfo.PodInfo {
	info, err := nodeinfo.Renew(h.cache.Pod(pod.UID), pod)
	if err != nil {
		klog.FromContext(h.ctx).Error(err, "Pod has affinity terms that do not parse", "pod", klog.KObj(pod))
	}
	return info
}

func (h handlers) podAdded(obj any) {
	pod := obj.(*corev1.Pod)
	if pod.Spec.NodeName != "" {
		h.bound(pod)
		return
	}
	if h.responsible(pod) {
		h.queue.Add(h.ctx, h.info(pod))
	}
}

// bound counts a pod that has a node.
func (h handlers) bound(pod *corev1.Pod) {
	h.cache.SetPod(h.info(pod))
	h.relieve()
	h.queue.Delete(pod)
	h.queue.Happened(h.ctx, fwk.ClusterEvent{Resource: fwk.AssignedPod, ActionType: fwk.Add}, nil, pod)
}

func (h handlers) podUpdated(oldObj, newObj any) {
	old, pod := oldObj.(*corev1.Pod), newObj.(*corev1.Pod)
	switch {
	case old.UID != pod.UID: // deleted and made anew while the watch was broken
		h.podDeleted(old)
		h.podAdded(pod)
	case pod.Spec.NodeName == "":
		if h.responsible(pod) && !h.cache.IsAssumed(pod.UID) {
			h.queue.Update(h.ctx, old, h.info(pod))
		}
	case old.Spec.NodeName == "":
		h.bound(pod)
	default:
		h.cache.SetPod(h.info(pod))
		h.relieve()
		for _, ce := range queue.AssignedPodChanges(old, pod) {
			h.queue.Happened(h.ctx, ce, old, pod)
		}
	}
}

func (h handlers) podDeleted(obj any) {
	pod, ok := deleted[corev1.Pod](obj)
	if !ok {
		return
	}
	nominated := h.queue.Nominator.NodeOf(pod.UID) != ""
	wasAssumed := h.cache.IsAssumed(pod.UID)
	h.queue.Delete(pod)
	h.cache.RemovePod(pod.UID)
	if p, ok := h.profiles[pod.Spec.SchedulerName]; ok {
		p.RejectWaitingPod(pod.UID)
	}
	if pod.Spec.NodeName != "" || nominated || wasAssumed {
		h.queue.Happened(h.ctx, fwk.ClusterEvent{Resource: fwk.AssignedPod, ActionType: fwk.Delete}, pod, nil)
	}
}

func (h handlers) nodeAdded(obj any) {
	node := obj.(*corev1.Node)
	h.cache.SetNode(node)
	h.relieve()
	h.queue.Happened(h.ctx, fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add}, nil, node)
}

func (h handlers) nodeUpdated(oldObj, newObj any) {
	old, node := oldObj.(*corev1.Node), newObj.(*corev1.Node)
	h.cache.SetNode(node)
	h.relieve()
	for _, ce := range queue.NodeChanges(old, node) {
		h.queue.Happened(h.ctx, ce, old, node)
	}
}

func (h handlers) nodeDeleted(obj any) {
	node, ok := deleted[corev1.Node](obj)
	if !ok {
		return
	}
	h.cache.RemoveNode(node.Name)
	h.queue.Happened(h.ctx, fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Delete}, node, nil)
}

func (h handlers) other(resource fwk.EventResource) cache.ResourceEventHandler {
	tell := func(action fwk.ActionType, old, new any) {
		h.queue.Happened(h.ctx, fwk.ClusterEvent{Resource: resource, ActionType: action}, old, new)
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { tell(fwk.Add, nil, obj) },
		UpdateFunc: func(old, obj any) { tell(fwk.Update, old, obj) },
		DeleteFunc: func(obj any) {
			if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tombstone.Obj
			}
			tell(fwk.Delete, obj, nil)
		},
	}
}

// deleted returns the object of a delete event, also when the watch missed the deletion itself.
func deleted[T any](obj any) (*T, bool) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	t, ok := obj.(*T)
	return t, ok
}
