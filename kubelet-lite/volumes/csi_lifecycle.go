package volumes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/kubelet-lite/metrics"
)

// republish refreshes a running pod's CSI volume: its tokens and contents where the driver wants that, and its size.
func (m *Manager) republish(ctx context.Context, pod *corev1.Pod, pv *corev1.Volume) error {
	var v *csiVolume
	var err error
	if pv.CSI != nil {
		v, err = m.inlineCSI(ctx, pod, pv)
	} else {
		var b *bound
		if b, err = m.resolve(ctx, pod, pv); err != nil || b.volume.Spec.CSI == nil {
			return err
		}
		v, err = m.boundCSI(ctx, b)
	}
	if err != nil {
		return fmt.Errorf("volume %q: %w", pv.Name, err)
	}
	if v.info != nil && isTrue(v.info.Spec.RequiresRepublish) {
		if err := v.setUp(ctx); err != nil {
			return fmt.Errorf("volume %q: %w", pv.Name, err)
		}
	}
	if v.bound != nil {
		return v.expand(ctx)
	}
	return nil
}

// expand grows the file system after the controller has grown the volume, and records the claim's new size.
func (v *csiVolume) expand(ctx context.Context) error {
	want, have := v.bound.volume.Spec.Capacity[corev1.ResourceStorage], v.bound.claim.Status.Capacity[corev1.ResourceStorage]
	if v.readOnly || want.Cmp(have) <= 0 || v.bound.claim.Status.Capacity == nil {
		return nil
	}
	if v.driver.capabilities[csi.NodeServiceCapability_RPC_EXPAND_VOLUME] {
		secrets, err := v.secrets(ctx, v.expandSecret)
		if err != nil {
			return err
		}
		call, cancel := context.WithTimeout(ctx, csiTimeout)
		defer cancel()
		_, err = v.driver.node.NodeExpandVolume(call, &csi.NodeExpandVolumeRequest{
			VolumeId: v.record.Handle, VolumePath: v.target, StagingTargetPath: v.stage, VolumeCapability: v.capability,
			CapacityRange: &csi.CapacityRange{RequiredBytes: want.Value()}, Secrets: secrets,
		})
		if err != nil {
			return mountError{fmt.Errorf("NodeExpandVolume failed for volume %q : %w", v.record.SpecName, err)}
		}
	}
	claim := v.bound.claim.DeepCopy()
	claim.Status.Capacity[corev1.ResourceStorage] = want
	claim.Status.Conditions = slices.DeleteFunc(claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == corev1.PersistentVolumeClaimResizing || c.Type == corev1.PersistentVolumeClaimFileSystemResizePending
	})
	delete(claim.Status.AllocatedResourceStatuses, corev1.ResourceStorage)
	if _, err := v.m.cfg.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("record the claim's new size: %w", err)
	}
	return nil
}

// unpublishAll tells the drivers of a pod's CSI volumes that it is gone, from the records below its directory.
func (m *Manager) unpublishAll(ctx context.Context, podDir string) error {
	records, err := recordsBelow(podDir)
	if err != nil {
		return err
	}
	var errs []error
	for path, record := range records {
		unmounted := metrics.Storage("kubernetes.io/csi:"+record.Driver, "volume_unmount")
		err := m.unpublish(ctx, path, record)
		unmounted(&err)
		if err != nil {
			errs = append(errs, fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %w", record.SpecName, err))
		}
	}
	return errors.Join(errs...)
}

// recordsBelow reads the records of CSI volumes in one pod's directory.
func recordsBelow(podDir string) (map[string]csiRecord, error) {
	found := map[string]csiRecord{}
	for _, pattern := range []string{"volumes/kubernetes.io~csi/*/" + recordFile, "volumeDevices/kubernetes.io~csi/*/" + recordFile} {
		paths, err := filepath.Glob(filepath.Join(podDir, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			var record csiRecord
			if err := json.Unmarshal(data, &record); err != nil {
				return nil, fmt.Errorf("read %s: %w", path, err)
			}
			if record.Target == "" { // written by upstream's kubelet
				record.Target = filepath.Join(filepath.Dir(path), "mount")
			}
			found[path] = record
		}
	}
	return found, nil
}

func (m *Manager) unpublish(ctx context.Context, path string, record csiRecord) error {
	driver, err := m.csi.get(record.Driver)
	if err != nil {
		return err
	}
	defer m.devices.lock(record.Driver + "^" + record.Handle)()
	call, cancel := context.WithTimeout(ctx, csiTimeout)
	defer cancel()
	_, err = driver.node.NodeUnpublishVolume(call, &csi.NodeUnpublishVolumeRequest{VolumeId: record.Handle, TargetPath: record.Target})
	if err != nil && status.Code(err) != codes.NotFound {
		return err
	}
	if err := unmountAll(record.Target); err != nil {
		return err
	}
	if err := ignoreNotExist(os.Remove(record.Target)); err != nil { // drivers should have removed it
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	if record.Stage == "" {
		return nil
	}
	inUse, err := m.handleInUse(record)
	if err != nil || inUse {
		return err
	}
	_, err = driver.node.NodeUnstageVolume(call, &csi.NodeUnstageVolumeRequest{VolumeId: record.Handle, StagingTargetPath: record.Stage})
	if err != nil {
		// The record is what leads back here on the next attempt.
		data, _ := json.Marshal(record)
		return errors.Join(err, os.WriteFile(path, data, 0o600))
	}
	if err := unmountAll(record.Stage); err != nil {
		return err
	}
	if filepath.Base(record.Stage) == "globalmount" {
		return removeTree(filepath.Dir(record.Stage))
	}
	return removeTree(record.Stage)
}

// handleInUse looks whether another pod on this node still has the volume.
func (m *Manager) handleInUse(gone csiRecord) (bool, error) {
	pods, err := os.ReadDir(filepath.Join(m.cfg.RootDir, "pods"))
	if err != nil {
		return false, err
	}
	for _, pod := range pods {
		records, err := recordsBelow(filepath.Join(m.cfg.RootDir, "pods", pod.Name()))
		if err != nil {
			return false, err
		}
		for _, record := range records {
			if record.Driver == gone.Driver && record.Handle == gone.Handle {
				return true, nil
			}
		}
	}
	return false, nil
}
