// Package attachdetach asks CSI drivers to attach volumes to the nodes whose pods need them, by VolumeAttachment, and to detach them
// once the node has let go. There is no other state than the objects: the attachments are what is, the pods are what should be.
package attachdetach

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

// reconciler works node by node.
type reconciler struct {
	client      client.Client
	nodes       lister.Of[*corev1.Node]
	pods        lister.Of[*corev1.Pod]
	claims      lister.Of[*corev1.PersistentVolumeClaim]
	volumes     lister.Of[*corev1.PersistentVolume]
	drivers     lister.Of[*storagev1.CSIDriver]
	attachments lister.Of[*storagev1.VolumeAttachment]
	recorder    record.EventRecorder
	clock       clock.PassiveClock

	mu     sync.Mutex
	unused map[string]time.Time // attachment → since when no pod needs it; after a restart the wait begins again
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	r := &reconciler{client: e.Client, recorder: e.Recorder("attachdetach-controller"), clock: e.Clock, unused: map[string]time.Time{}}
	var err error
	for _, open := range []func() error{
		func() error { r.nodes, err = env.Lister(e, &corev1.Node{}); return err },
		func() error { r.pods, err = env.Lister(e, &corev1.Pod{}); return err },
		func() error { r.claims, err = env.Lister(e, &corev1.PersistentVolumeClaim{}); return err },
		func() error { r.volumes, err = env.Lister(e, &corev1.PersistentVolume{}); return err },
		func() error { r.drivers, err = env.Lister(e, &storagev1.CSIDriver{}); return err },
		func() error { r.attachments, err = env.Lister(e, &storagev1.VolumeAttachment{}); return err },
	} {
		if err := open(); err != nil {
			return err
		}
	}
	return e.Controller("attachdetach", workers, r.reconcile,
		env.On(&corev1.Node{}, env.Changes[*corev1.Node]{
			Created: func(node *corev1.Node, q env.Queue) { env.Add(q, nodeKey(node.Name)) },
			Updated: func(before, after *corev1.Node, q env.Queue) {
				if !equality.Semantic.DeepEqual(before.Status.VolumesInUse, after.Status.VolumesInUse) ||
					!equality.Semantic.DeepEqual(before.Status.VolumesAttached, after.Status.VolumesAttached) ||
					healthy(before) != healthy(after) || managed(before) != managed(after) || outOfService(before) != outOfService(after) {
					env.Add(q, nodeKey(after.Name))
				}
			},
			Deleted: func(node *corev1.Node, q env.Queue) { env.Add(q, nodeKey(node.Name)) },
		}),
		env.Mapped(&corev1.Pod{}, func(pod *corev1.Pod) []types.NamespacedName {
			if pod.Spec.NodeName == "" || !hasClaims(pod) {
				return nil
			}
			return []types.NamespacedName{nodeKey(pod.Spec.NodeName)}
		}),
		env.Mapped(&storagev1.VolumeAttachment{}, func(a *storagev1.VolumeAttachment) []types.NamespacedName {
			return append(r.nodesOf(ptr.Deref(a.Spec.Source.PersistentVolumeName, "")), nodeKey(a.Spec.NodeName))
		}),
		env.Mapped(&corev1.PersistentVolumeClaim{}, func(claim *corev1.PersistentVolumeClaim) []types.NamespacedName {
			return r.nodesOfClaim(claim.Namespace, claim.Name)
		}),
		env.Mapped(&storagev1.CSIDriver{}, func(*storagev1.CSIDriver) []types.NamespacedName {
			var keys []types.NamespacedName
			for _, node := range r.nodes.All() {
				keys = append(keys, nodeKey(node.Name))
			}
			return keys
		}))
}

func nodeKey(name string) types.NamespacedName { return types.NamespacedName{Name: name} }

// nodesOf returns the nodes whose pods use a volume: they may be waiting for another node to let go of it.
func (r *reconciler) nodesOf(volume string) []types.NamespacedName {
	v, ok := r.volumes.Find("", volume)
	if !ok || v.Spec.ClaimRef == nil {
		return nil
	}
	return r.nodesOfClaim(v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name)
}

func (r *reconciler) nodesOfClaim(namespace, name string) []types.NamespacedName {
	var keys []types.NamespacedName
	for _, pod := range r.pods.In(namespace) {
		for i := range pod.Spec.Volumes {
			if pod.Spec.NodeName != "" && claimName(pod, &pod.Spec.Volumes[i]) == name {
				keys = append(keys, nodeKey(pod.Spec.NodeName))
			}
		}
	}
	return keys
}

func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	now := r.clock.Now()
	node, _ := r.nodes.Find("", req.Name)
	state := r.observe(req.Name, node, now)
	p := decide(state, now)
	for _, wanted := range p.blocked {
		r.recorder.Eventf(wanted.pod, corev1.EventTypeWarning, "FailedAttachVolume", "Multi-Attach error for volume %q Volume is already exclusively attached to one node and can't be attached to another", wanted.volume.Name)
	}
	for _, wanted := range p.attach {
		if err := r.client.Create(ctx, attachmentFor(wanted, req.Name)); err != nil && !apierrors.IsAlreadyExists(err) {
			r.recorder.Eventf(wanted.pod, corev1.EventTypeWarning, "FailedAttachVolume", "AttachVolume.Attach failed for volume %q : %v", wanted.volume.Name, err)
			return ctrl.Result{}, fmt.Errorf("attach %s: %w", wanted.volume.Name, err)
		}
	}
	// The node must know that a volume goes before it goes, or it might mount it meanwhile.
	if node != nil && !equality.Semantic.DeepEqual(p.attached, node.Status.VolumesAttached) && (len(p.attached) > 0 || len(node.Status.VolumesAttached) > 0) {
		if err := r.report(ctx, node, p.attached); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	for _, a := range p.detach {
		err := r.client.Delete(ctx, a.DeepCopy(), client.Preconditions{UID: new(a.UID)})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return ctrl.Result{}, fmt.Errorf("detach: %w", err)
		}
	}
	return ctrl.Result{RequeueAfter: p.again}, nil
}

// report writes the list of attached volumes. It is a merge patch: the list is ours alone, all else of the status is the node's.
func (r *reconciler) report(ctx context.Context, node *corev1.Node, attached []corev1.AttachedVolume) error {
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID}, "status": map[string]any{"volumesAttached": attached},
	})
	if err != nil {
		return fmt.Errorf("encode attached volumes: %w", err)
	}
	return r.client.Status().Patch(ctx, node.DeepCopy(), client.RawPatch(types.MergePatchType, body))
}

// observe gathers what the decision about a node needs.
func (r *reconciler) observe(name string, node *corev1.Node, now time.Time) nodeState {
	s := nodeState{node: node, volumeNodes: map[string][]string{}, unusedSince: map[string]time.Time{}}
	for _, pod := range r.pods.Index(lister.ByNode, name) {
		s.wanted = append(s.wanted, r.wantedBy(pod)...)
	}
	for _, a := range r.attachments.All() {
		volume := ptr.Deref(a.Spec.Source.PersistentVolumeName, "")
		s.volumeNodes[volume] = append(s.volumeNodes[volume], a.Spec.NodeName)
		v, ok := r.volumes.Find("", volume)
		if a.Spec.NodeName != name || volume == "" || !ours(a, v, ok) {
			continue // made by somebody else
		}
		found := attachment{VolumeAttachment: a}
		if ok {
			found.device = deviceName(v.Spec.CSI)
		}
		s.attachments = append(s.attachments, found)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range s.attachments {
		if s.wants(a.VolumeAttachment) {
			delete(r.unused, a.Name)
			continue
		}
		if _, known := r.unused[a.Name]; !known {
			r.unused[a.Name] = now
		}
		s.unusedSince[a.Name] = r.unused[a.Name]
		if a.DeletionTimestamp != nil {
			delete(r.unused, a.Name)
		}
	}
	return s
}

// wantedBy returns the volumes of a pod that must be attached.
func (r *reconciler) wantedBy(pod *corev1.Pod) []wantedVolume {
	if !needsVolumes(pod) {
		return nil
	}
	var wanted []wantedVolume
	for i := range pod.Spec.Volumes {
		name := claimName(pod, &pod.Spec.Volumes[i])
		claim, ok := r.claims.Find(pod.Namespace, name)
		if name == "" || !ok || claim.Spec.VolumeName == "" || claim.Status.Phase != corev1.ClaimBound {
			continue
		}
		if v, ok := r.volumes.Find("", claim.Spec.VolumeName); ok && v.Spec.CSI != nil && r.attachable(v.Spec.CSI.Driver) {
			wanted = append(wanted, wantedVolume{pod: pod, volume: v})
		}
	}
	return wanted
}

// ours reports whether this controller made an attachment, as its name tells; that of a volume which is gone tells only by its form.
func ours(a *storagev1.VolumeAttachment, v *corev1.PersistentVolume, found bool) bool {
	if !found {
		return strings.HasPrefix(a.Name, namePrefix)
	}
	return v.Spec.CSI != nil && a.Name == attachmentName(v.Spec.CSI, a.Spec.NodeName)
}

// attachable reports whether a driver wants to hear of attachments. One without a CSIDriver object does.
func (r *reconciler) attachable(name string) bool {
	driver, ok := r.drivers.Find("", name)
	return !ok || ptr.Deref(driver.Spec.AttachRequired, true)
}

func attachmentFor(wanted wantedVolume, node string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: attachmentName(wanted.volume.Spec.CSI, node)},
		Spec: storagev1.VolumeAttachmentSpec{
			Attacher: wanted.volume.Spec.CSI.Driver, NodeName: node,
			Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: new(wanted.volume.Name)},
		},
	}
}
