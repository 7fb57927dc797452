package attachdetach

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/utils/ptr"

	"keelson.dev/internal/podstate"
)

const (
	// managedAnnotation is set by kubelets that leave attaching to this controller.
	managedAnnotation = "volumes.kubernetes.io/controller-managed-attach-detach"
	// keepAnnotation keeps the volumes of stopped pods attached.
	keepAnnotation = "volumes.kubernetes.io/keep-terminated-pod-volumes"
	// unmountGrace is how long a node that is not well may take to unmount before its volumes are detached all the same.
	unmountGrace = 6 * time.Minute
)

// wantedVolume is a volume that a pod of the node needs.
type wantedVolume struct {
	pod    *corev1.Pod
	volume *corev1.PersistentVolume
}

// attachment is a VolumeAttachment of ours, with the name by which the node knows the volume; empty if the volume is gone.
type attachment struct {
	*storagev1.VolumeAttachment
	device corev1.UniqueVolumeName
}

// nodeState is all that the decision about a node depends on.
type nodeState struct {
	node        *corev1.Node // nil: gone
	wanted      []wantedVolume
	attachments []attachment
	volumeNodes map[string][]string // volume → nodes that have an attachment of it
	unusedSince map[string]time.Time
}

// plan is what to do about a node.
type plan struct {
	attach   []wantedVolume
	blocked  []wantedVolume // exclusively attached elsewhere
	detach   []*storagev1.VolumeAttachment
	attached []corev1.AttachedVolume // what the node is told
	again    time.Duration           // when a volume may be detached by force
}

func (s *nodeState) wants(a *storagev1.VolumeAttachment) bool {
	return slices.ContainsFunc(s.wanted, func(w wantedVolume) bool { return w.volume.Name == ptr.Deref(a.Spec.Source.PersistentVolumeName, "") })
}

// decide plans the attachments of one node.
func decide(s nodeState, now time.Time) plan {
	var p plan
	has := map[string]bool{}
	for _, a := range s.attachments {
		has[ptr.Deref(a.Spec.Source.PersistentVolumeName, "")] = true
	}
	if s.node != nil && managed(s.node) {
		for _, w := range s.wanted {
			switch {
			case has[w.volume.Name]:
			case exclusive(w.volume) && len(s.volumeNodes[w.volume.Name]) > 0:
				p.blocked = append(p.blocked, w)
			default:
				p.attach = append(p.attach, w)
			}
			has[w.volume.Name] = true
		}
	}
	for _, a := range s.attachments {
		if s.wants(a.VolumeAttachment) || a.DeletionTimestamp != nil {
			if a.Status.Attached && a.DeletionTimestamp == nil && a.device != "" {
				p.attached = append(p.attached, corev1.AttachedVolume{Name: a.device, DevicePath: a.Status.AttachmentMetadata["devicePath"]})
			}
			continue
		}
		wait, ok := s.released(a, now)
		if ok {
			p.detach = append(p.detach, a.VolumeAttachment)
			continue
		}
		if a.Status.Attached && a.device != "" {
			p.attached = append(p.attached, corev1.AttachedVolume{Name: a.device, DevicePath: a.Status.AttachmentMetadata["devicePath"]})
		}
		if wait > 0 && (p.again == 0 || wait < p.again) {
			p.again = wait
		}
	}
	slices.SortFunc(p.attached, func(a, b corev1.AttachedVolume) int { return cmp.Compare(a.Name, b.Name) })
	p.attached = slices.Compact(p.attached)
	return p
}

// released reports whether the node has let go of a volume, or can be trusted not to write to it again. If not, it returns after how
// long that is to be assumed; 0 as long as the node is well.
func (s *nodeState) released(a attachment, now time.Time) (time.Duration, bool) {
	if s.node == nil || outOfService(s.node) || !slices.Contains(s.node.Status.VolumesInUse, a.device) {
		return 0, true
	}
	if healthy(s.node) {
		return 0, false
	}
	wait := s.unusedSince[a.Name].Add(unmountGrace).Sub(now)
	return wait, wait <= 0
}

// exclusive reports whether only one node may have the volume.
func exclusive(v *corev1.PersistentVolume) bool {
	return len(v.Spec.AccessModes) > 0 && !slices.ContainsFunc(v.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadWriteMany || m == corev1.ReadOnlyMany
	})
}

// needsVolumes reports whether the node must have the volumes of a pod.
func needsVolumes(pod *corev1.Pod) bool {
	return !podstate.Terminal(pod) || pod.Annotations[keepAnnotation] == "true"
}

func hasClaims(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return claimName(pod, &v) != "" })
}

func claimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, v)
	}
	return ""
}

const namePrefix = "csi-"

// attachmentName is the name that kubelets look for.
func attachmentName(csi *corev1.CSIPersistentVolumeSource, node string) string {
	return namePrefix + fmt.Sprintf("%x", sha256.Sum256([]byte(csi.VolumeHandle+csi.Driver+node)))
}

// deviceName is how nodes name a volume in their status.
func deviceName(csi *corev1.CSIPersistentVolumeSource) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + csi.Driver + "^" + csi.VolumeHandle)
}

func managed(node *corev1.Node) bool { return node.Annotations[managedAnnotation] == "true" }

func outOfService(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func healthy(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
