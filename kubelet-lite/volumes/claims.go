package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"

	"keelson.dev/kubelet-lite/metrics"
)

// bound is a claim with the volume that it is bound to, as one pod uses it.
type bound struct {
	pod      *corev1.Pod
	name     string // in the pod's spec
	claim    *corev1.PersistentVolumeClaim
	volume   *corev1.PersistentVolume
	readOnly bool
	block    bool
}

// setUpClaim finds the volume behind a claim and hands over to what provides it.
func (m *Manager) setUpClaim(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (_ *mounted, err error) {
	b, err := m.resolve(ctx, pod, v)
	if err != nil {
		return nil, err
	}
	source := b.volume.Spec.PersistentVolumeSource
	plugin := "kubernetes.io/local-volume"
	if source.CSI != nil {
		plugin = "kubernetes.io/csi:" + source.CSI.Driver
	} else if source.Local == nil {
		plugin = pluginOf(&corev1.Volume{VolumeSource: corev1.VolumeSource{HostPath: source.HostPath, NFS: source.NFS}})
	}
	defer metrics.Storage(plugin, "volume_mount")(&err)
	switch {
	case source.HostPath != nil:
		result, err := checkHostPath(source.HostPath)
		if err != nil {
			return nil, err
		}
		result.readOnly, result.block = b.readOnly, b.block
		return result, nil
	case source.Local != nil:
		return m.setUpLocal(b, source.Local)
	case source.NFS != nil:
		return m.mountNFS(pod, b.volume.Name, source.NFS, b.readOnly, b.volume.Spec.MountOptions)
	case source.CSI != nil:
		return m.setUpCSI(ctx, b)
	}
	return nil, errors.New("no volume plugin matched the persistent volume's source")
}

func (m *Manager) resolve(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (*bound, error) {
	b := &bound{pod: pod, name: v.Name}
	name := pod.Name + "-" + v.Name // of a generic ephemeral volume
	if v.PersistentVolumeClaim != nil {
		name, b.readOnly = v.PersistentVolumeClaim.ClaimName, v.PersistentVolumeClaim.ReadOnly
	}
	var err error
	b.claim, err = m.cfg.Client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err) // upstream's words
	}
	switch {
	case v.Ephemeral != nil && !metav1.IsControlledBy(b.claim, pod):
		return nil, fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", pod.Namespace, name, pod.Namespace, pod.Name)
	case b.claim.DeletionTimestamp != nil && !m.isReady(pod, v.Name):
		return nil, errors.New("PVC is being deleted")
	case b.claim.Status.Phase != corev1.ClaimBound || b.claim.Spec.VolumeName == "":
		return nil, errors.New("PVC is not bound")
	}
	b.volume, err = m.cfg.Client.CoreV1().PersistentVolumes().Get(ctx, b.claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PV %s from API server: %w", b.claim.Spec.VolumeName, err)
	}
	if ref := b.volume.Spec.ClaimRef; ref == nil || ref.UID != b.claim.UID {
		return nil, fmt.Errorf("PV %s is not bound to PVC %s/%s", b.volume.Name, pod.Namespace, name)
	}
	b.block = b.volume.Spec.VolumeMode != nil && *b.volume.Spec.VolumeMode == corev1.PersistentVolumeBlock
	return b, nil
}

// isReady is for a pod that runs already; m.state's lock is held by whoever sets up or refreshes it.
func (m *Manager) isReady(pod *corev1.Pod, volume string) bool {
	s, _ := m.known(pod.UID)
	return s != nil && s.ready[volume] != nil
}

// setUpLocal binds a directory of the node into the pod's, or mounts the file system on a local device.
func (m *Manager) setUpLocal(b *bound, source *corev1.LocalVolumeSource) (*mounted, error) {
	info, err := os.Stat(source.Path)
	if err != nil {
		return nil, fmt.Errorf("path %q does not exist: %w", source.Path, err)
	}
	device := info.Mode()&os.ModeDevice != 0
	if b.block {
		if !device {
			return nil, fmt.Errorf("path %q is not a block device", source.Path)
		}
		return &mounted{path: source.Path, block: true, readOnly: b.readOnly}, nil
	}
	from := source.Path
	if device {
		if from, err = m.mountDevice(b, source); err != nil {
			return nil, err
		}
	}
	dir := m.volumeDir(b.pod.UID, "local-volume", b.volume.Name)
	if err := ensureDir(dir); err != nil {
		return nil, err
	}
	if done, err := isMountPoint(dir); err != nil || done {
		return &mounted{path: dir, readOnly: b.readOnly}, err
	}
	if !b.readOnly {
		if err := (owner{fsGroup: fsGroup(b.pod)}).apply(from, onRootMismatch(b.pod)); err != nil {
			return nil, fmt.Errorf("set volume ownership: %w", err)
		}
	}
	if err := bindMount(from, dir, b.readOnly); err != nil {
		return nil, err
	}
	return &mounted{path: dir, readOnly: b.readOnly}, nil
}

// mountDevice mounts a local device once for all pods, formatting it if it is blank.
func (m *Manager) mountDevice(b *bound, source *corev1.LocalVolumeSource) (string, error) {
	defer m.devices.lock(b.volume.Name)()
	dir := filepath.Join(m.cfg.RootDir, "plugins/kubernetes.io/local-volume/mounts", b.volume.Name)
	if err := ensureDir(dir); err != nil {
		return "", err
	}
	if done, err := isMountPoint(dir); err != nil || done {
		return dir, err
	}
	fsType := "ext4"
	if source.FSType != nil && *source.FSType != "" {
		fsType = *source.FSType
	}
	mounter := mount.NewSafeFormatAndMount(mount.New(""), utilexec.New())
	if err := mounter.FormatAndMount(source.Path, dir, fsType, b.volume.Spec.MountOptions); err != nil {
		return "", fmt.Errorf("local: failed to mount device %s at %s (fstype: %s): %w", source.Path, dir, fsType, err)
	}
	return dir, nil
}

func (m *Manager) setUpNFS(_ context.Context, pod *corev1.Pod, v *corev1.Volume) (*mounted, error) {
	return m.mountNFS(pod, v.Name, v.NFS, v.NFS.ReadOnly, nil)
}

// mountNFS needs the machine's mount.nfs, which talks to the server in the version that both know.
func (m *Manager) mountNFS(pod *corev1.Pod, name string, source *corev1.NFSVolumeSource, readOnly bool, options []string) (*mounted, error) {
	dir := m.volumeDir(pod.UID, "nfs", name)
	if err := ensureDir(dir); err != nil {
		return nil, err
	}
	result := &mounted{path: dir, readOnly: readOnly || source.ReadOnly}
	if done, err := isMountPoint(dir); err != nil || done {
		return result, err
	}
	if result.readOnly {
		options = append([]string{"ro"}, options...)
	}
	if err := mount.New("").Mount(source.Server+":"+source.Path, dir, "nfs", options); err != nil {
		return nil, errors.Join(err, ignoreNotExist(unix.Rmdir(dir)))
	}
	return result, nil
}
