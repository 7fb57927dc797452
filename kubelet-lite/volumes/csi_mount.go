package volumes

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	csiPlugin = "csi"
	// attachTimeout is for how long one SetUp waits for the attacher; the pod's worker tries again after it.
	attachTimeout = 2 * time.Minute
	// republishInterval is how often what a driver provides is refreshed: its tokens, its contents, its size.
	republishInterval = time.Minute
)

// attachBackoff: a node may get its own VolumeAttachments, but the node authorizer lets it watch none.
func attachBackoff() wait.Backoff {
	return wait.Backoff{Duration: 100 * time.Millisecond, Factor: 1.5, Steps: 1 << 10, Cap: 5 * time.Second}
}

// csiVolume is one CSI volume as one pod uses it. Its record lies beside the mount, so that it can be taken down without the API.
type csiVolume struct {
	m      *Manager
	pod    *corev1.Pod
	driver *csiDriver
	info   *storagev1.CSIDriver // nil if there is no such object
	record csiRecord
	stage  string // staging path, or empty for inline volumes
	target string
	dir    string // holds record and target

	attributes     map[string]string
	publishContext map[string]string
	capability     *csi.VolumeCapability
	stageSecret    *corev1.SecretReference
	publishSecret  *corev1.SecretReference
	expandSecret   *corev1.SecretReference
	readOnly       bool
	block          bool
	fsType         string
	bound          *bound
}

// csiRecord is vol_data.json, with upstream's names, so that either kubelet can take over from the other.
type csiRecord struct {
	SpecName      string `json:"specVolID"`
	Handle        string `json:"volumeHandle"`
	Driver        string `json:"driverName"`
	Node          string `json:"nodeName"`
	Attachment    string `json:"attachmentID,omitempty"`
	Lifecycle     string `json:"volumeLifecycleMode,omitempty"`
	PodVolumeName string `json:"podVolumeName,omitempty"`
	Stage         string `json:"stagePath,omitempty"`
	Target        string `json:"targetPath,omitempty"`
}

const recordFile = "vol_data.json"

func (m *Manager) setUpCSI(ctx context.Context, b *bound) (*mounted, error) {
	v, err := m.boundCSI(ctx, b)
	if err != nil {
		return nil, err
	}
	if err := v.setUp(ctx); err != nil {
		return nil, err
	}
	if err := v.expand(ctx); err != nil {
		return nil, err
	}
	result := v.result()
	result.attachable = corev1.UniqueVolumeName("kubernetes.io/csi/" + v.record.Driver + "^" + v.record.Handle)
	return result, nil
}

// setUpInlineCSI: a driver's volume that lives and dies with the pod, without a claim.
func (m *Manager) setUpInlineCSI(ctx context.Context, pod *corev1.Pod, pv *corev1.Volume) (*mounted, error) {
	v, err := m.inlineCSI(ctx, pod, pv)
	if err != nil {
		return nil, err
	}
	if err := v.setUp(ctx); err != nil {
		return nil, err
	}
	return v.result(), nil
}

func (v *csiVolume) result() *mounted {
	return &mounted{path: v.target, readOnly: v.readOnly, block: v.block, csi: true}
}

func (m *Manager) boundCSI(ctx context.Context, b *bound) (*csiVolume, error) {
	source := b.volume.Spec.CSI
	v := &csiVolume{
		m: m, pod: b.pod, bound: b, block: b.block, fsType: source.FSType, attributes: source.VolumeAttributes, readOnly: b.readOnly || source.ReadOnly,
		stageSecret: source.NodeStageSecretRef, publishSecret: source.NodePublishSecretRef, expandSecret: source.NodeExpandSecretRef,
		record: csiRecord{SpecName: b.volume.Name, Handle: source.VolumeHandle, Driver: source.Driver, Node: m.cfg.NodeName, Lifecycle: string(storagev1.VolumeLifecyclePersistent), PodVolumeName: b.name},
	}
	if err := v.lookUp(ctx); err != nil {
		return nil, err
	}
	global := filepath.Join(m.cfg.RootDir, "plugins/kubernetes.io/csi")
	if b.block {
		v.stage = filepath.Join(global, "volumeDevices/staging", b.volume.Name)
		v.dir = filepath.Join(m.podDir(b.pod.UID), "volumeDevices/kubernetes.io~csi", b.volume.Name)
		v.target = filepath.Join(global, "volumeDevices/publish", b.volume.Name, string(b.pod.UID))
	} else {
		v.stage = filepath.Join(global, source.Driver, fmt.Sprintf("%x", sha256.Sum256([]byte(source.VolumeHandle))), "globalmount")
		v.dir = m.volumeDir(b.pod.UID, csiPlugin, b.volume.Name)
		v.target = filepath.Join(v.dir, "mount")
	}
	if !v.driver.capabilities[csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME] {
		v.stage = ""
	}
	v.record.Stage, v.record.Target = v.stage, v.target
	v.capability = v.volumeCapability(b.volume.Spec.AccessModes, b.volume.Spec.MountOptions)
	return v, nil
}

func (m *Manager) inlineCSI(ctx context.Context, pod *corev1.Pod, pv *corev1.Volume) (*csiVolume, error) {
	source := pv.CSI
	handle := fmt.Sprintf("csi-%x", sha256.Sum256([]byte(string(pod.UID)+pv.Name)))
	v := &csiVolume{
		m: m, pod: pod, attributes: source.VolumeAttributes, readOnly: isTrue(source.ReadOnly),
		record: csiRecord{SpecName: pv.Name, Handle: handle, Driver: source.Driver, Node: m.cfg.NodeName, Lifecycle: string(storagev1.VolumeLifecycleEphemeral), PodVolumeName: pv.Name},
		dir:    m.volumeDir(pod.UID, csiPlugin, pv.Name),
	}
	if source.FSType != nil {
		v.fsType = *source.FSType
	}
	if source.NodePublishSecretRef != nil {
		v.publishSecret = &corev1.SecretReference{Namespace: pod.Namespace, Name: source.NodePublishSecretRef.Name}
	}
	if err := v.lookUp(ctx); err != nil {
		return nil, err
	}
	supported := false
	if v.info != nil {
		for _, mode := range v.info.Spec.VolumeLifecycleModes {
			supported = supported || mode == storagev1.VolumeLifecycleEphemeral
		}
	}
	if !supported {
		return nil, fmt.Errorf("volume mode %q not supported by driver %s", storagev1.VolumeLifecycleEphemeral, source.Driver)
	}
	v.target = filepath.Join(v.dir, "mount")
	v.record.Target = v.target
	v.capability = v.volumeCapability([]corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, nil)
	return v, nil
}

func (v *csiVolume) lookUp(ctx context.Context) (err error) {
	if v.driver, err = v.m.csi.get(v.record.Driver); err != nil {
		return err
	}
	v.info, err = v.m.cfg.Client.StorageV1().CSIDrivers().Get(ctx, v.record.Driver, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		v.info, err = nil, nil
	}
	if err != nil {
		return fmt.Errorf("get CSIDriver: %w", err)
	}
	return nil
}

// setUp records the volume before the first call to the driver: what was begun must be found again after a crash.
func (v *csiVolume) setUp(ctx context.Context) error {
	if v.needsAttachment() {
		if err := v.waitAttached(ctx); err != nil {
			return mountError{fmt.Errorf("MountVolume.WaitForAttach failed for volume %q : %w", v.record.SpecName, err)}
		}
	}
	if err := ensureDir(v.dir); err != nil {
		return err
	}
	data, err := json.Marshal(v.record)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(v.dir, recordFile), data, 0o600); err != nil {
		return err
	}
	defer v.m.devices.lock(v.record.Driver + "^" + v.record.Handle)()
	if v.stage != "" {
		if err := v.stageVolume(ctx); err != nil {
			return mountError{fmt.Errorf("MountVolume.MountDevice failed for volume %q : %w", v.record.SpecName, err)}
		}
	}
	return v.publish(ctx)
}

func (v *csiVolume) needsAttachment() bool {
	return v.bound != nil && (v.info == nil || v.info.Spec.AttachRequired == nil || *v.info.Spec.AttachRequired)
}

func (v *csiVolume) waitAttached(ctx context.Context) error {
	sum := sha256.Sum256([]byte(v.record.Handle + v.record.Driver + v.record.Node))
	v.record.Attachment = fmt.Sprintf("csi-%x", sum)
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	var last error
	err := wait.ExponentialBackoffWithContext(ctx, attachBackoff(), func(ctx context.Context) (bool, error) {
		attachment, err := v.m.cfg.Client.StorageV1().VolumeAttachments().Get(ctx, v.record.Attachment, metav1.GetOptions{})
		switch {
		case err != nil:
			last = err
			return false, nil //nolint:nilerr // it is asked again until the time is over, and told then
		case attachment.Status.Attached:
			v.publishContext = attachment.Status.AttachmentMetadata
			return true, nil
		case attachment.Status.AttachError != nil:
			return false, errors.New(attachment.Status.AttachError.Message)
		}
		last = fmt.Errorf("volume is not attached yet (%s)", v.record.Attachment)
		return false, nil
	})
	if wait.Interrupted(err) && last != nil {
		return last
	}
	return err
}

func (v *csiVolume) stageVolume(ctx context.Context) error {
	if err := os.MkdirAll(v.stage, 0o750); err != nil {
		return err
	}
	if !v.block {
		// Upstream's kubelet reads this file from the staging directory's parent.
		data, err := json.Marshal(csiRecord{Driver: v.record.Driver, Handle: v.record.Handle})
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(v.stage), recordFile), data, 0o600); err != nil {
			return err
		}
	}
	secrets, err := v.secrets(ctx, v.stageSecret)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, csiTimeout)
	defer cancel()
	_, err = v.driver.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.record.Handle, PublishContext: v.publishContext, StagingTargetPath: v.stage, VolumeCapability: v.capability, Secrets: secrets, VolumeContext: v.attributes,
	})
	return err
}

func (v *csiVolume) publish(ctx context.Context) error {
	// The target itself is the driver's to make; only its parent is ours.
	if err := os.MkdirAll(filepath.Dir(v.target), 0o750); err != nil {
		return err
	}
	secrets, err := v.secrets(ctx, v.publishSecret)
	if err != nil {
		return err
	}
	attributes := map[string]string{}
	maps.Copy(attributes, v.attributes)
	if err := v.podInfo(ctx, attributes, &secrets); err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, csiTimeout)
	defer cancel()
	_, err = v.driver.node.NodePublishVolume(call, &csi.NodePublishVolumeRequest{
		VolumeId: v.record.Handle, PublishContext: v.publishContext, StagingTargetPath: v.stage, TargetPath: v.target,
		VolumeCapability: v.capability, Readonly: v.readOnly, Secrets: secrets, VolumeContext: attributes,
	})
	if err != nil {
		return err
	}
	if v.ownGroup() {
		if err := (owner{fsGroup: fsGroup(v.pod)}).apply(v.target, onRootMismatch(v.pod)); err != nil {
			return fmt.Errorf("applyFSGroup failed for vol %s: %w", v.record.Handle, err)
		}
	}
	return nil
}

// podInfo adds what the CSIDriver object says that the driver wants to know of the pod: its name, and tokens.
func (v *csiVolume) podInfo(ctx context.Context, attributes map[string]string, secrets *map[string]string) error {
	if v.info == nil {
		return nil
	}
	if isTrue(v.info.Spec.PodInfoOnMount) {
		attributes["csi.storage.k8s.io/pod.name"] = v.pod.Name
		attributes["csi.storage.k8s.io/pod.namespace"] = v.pod.Namespace
		attributes["csi.storage.k8s.io/pod.uid"] = string(v.pod.UID)
		attributes["csi.storage.k8s.io/serviceAccount.name"] = v.pod.Spec.ServiceAccountName
		attributes["csi.storage.k8s.io/ephemeral"] = strconv.FormatBool(v.bound == nil)
	}
	if len(v.info.Spec.TokenRequests) == 0 {
		return nil
	}
	type entry struct {
		Token   string      `json:"token"`
		Expires metav1.Time `json:"expirationTimestamp"`
	}
	all := map[string]entry{}
	for _, request := range v.info.Spec.TokenRequests {
		key := tokenKey{request.Audience, defaultTokenLife}
		if request.ExpirationSeconds != nil {
			key.seconds = *request.ExpirationSeconds
		}
		token, err := v.m.tokens.request(ctx, v.pod, key)
		if err != nil {
			return err
		}
		all[request.Audience] = entry{token.value, metav1.NewTime(token.expires)}
	}
	data, err := json.Marshal(all)
	if err != nil {
		return err
	}
	const key = "csi.storage.k8s.io/serviceAccount.tokens"
	if !isTrue(v.info.Spec.ServiceAccountTokenInSecrets) {
		attributes[key] = string(data)
		return nil
	}
	if *secrets == nil {
		*secrets = map[string]string{}
	}
	(*secrets)[key] = string(data)
	return nil
}

func (v *csiVolume) secrets(ctx context.Context, ref *corev1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	secret, err := v.m.cfg.Objects.Secret(ctx, ref.Namespace, ref.Name)
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s of volume: %w", ref.Namespace, ref.Name, err)
	}
	out := make(map[string]string, len(secret.Data))
	for k, value := range secret.Data {
		out[k] = string(value)
	}
	return out, nil
}

// ownGroup says whether the kubelet changes the files' group, by the driver's policy; a driver that can do it is told the group.
func (v *csiVolume) ownGroup() bool {
	if v.block || v.readOnly || fsGroup(v.pod) == nil || v.driver.capabilities[csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP] {
		return false
	}
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if v.info != nil && v.info.Spec.FSGroupPolicy != nil {
		policy = *v.info.Spec.FSGroupPolicy
	}
	switch policy {
	case storagev1.FileFSGroupPolicy:
		return true
	case storagev1.NoneFSGroupPolicy:
		return false
	case storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy:
	}
	return v.fsType != "" && v.bound != nil && hasMode(v.bound.volume, corev1.ReadWriteOnce)
}

func hasMode(pv *corev1.PersistentVolume, mode corev1.PersistentVolumeAccessMode) bool {
	return slices.Contains(pv.Spec.AccessModes, mode)
}

func (v *csiVolume) volumeCapability(modes []corev1.PersistentVolumeAccessMode, options []string) *csi.VolumeCapability {
	single := v.driver.capabilities[csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER]
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: accessMode(modes, single)}}
	if v.block {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		return c
	}
	fsys := &csi.VolumeCapability_MountVolume{FsType: v.fsType, MountFlags: options}
	if group := fsGroup(v.pod); group != nil && v.driver.capabilities[csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP] {
		fsys.VolumeMountGroup = strconv.FormatInt(*group, 10)
	}
	c.AccessType = &csi.VolumeCapability_Mount{Mount: fsys}
	return c
}

// accessMode picks the widest mode of the volume; drivers since CSI 1.5 tell one writer from several on one node.
func accessMode(modes []corev1.PersistentVolumeAccessMode, singleNodeMultiWriter bool) csi.VolumeCapability_AccessMode_Mode {
	has := map[corev1.PersistentVolumeAccessMode]bool{}
	for _, mode := range modes {
		has[mode] = true
	}
	switch {
	case has[corev1.ReadWriteMany]:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case has[corev1.ReadOnlyMany] && has[corev1.ReadWriteOnce]:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
	case has[corev1.ReadOnlyMany]:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case has[corev1.ReadWriteOncePod] && singleNodeMultiWriter:
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case has[corev1.ReadWriteOnce] && singleNodeMultiWriter:
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	}
	return csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
}
