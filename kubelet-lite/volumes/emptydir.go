package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// setUpEmptyDir leaves a directory alone that an earlier call completed, which the ready marker says.
func (m *Manager) setUpEmptyDir(_ context.Context, pod *corev1.Pod, v *corev1.Volume) (*mounted, error) {
	dir := m.volumeDir(pod.UID, "empty-dir", v.Name)
	marker := filepath.Join(m.podDir(pod.UID), "plugins", "kubernetes.io~empty-dir", v.Name, "ready")
	if done, err := emptyDirDone(dir, marker, v.EmptyDir.Medium); err != nil || done {
		return &mounted{path: dir}, err
	}
	var err error
	switch medium := v.EmptyDir.Medium; {
	case medium == corev1.StorageMediumDefault:
		err = ensureDir(dir)
	case medium == corev1.StorageMediumMemory:
		err = ensureTmpfs(dir, tmpfsSize(pod, v.EmptyDir, m.allocatable()))
	case strings.HasPrefix(string(medium), string(corev1.StorageMediumHugePages)):
		err = m.mountHugePages(pod, v, dir)
	default:
		err = fmt.Errorf("unknown storage medium %q", medium)
	}
	if err != nil {
		return nil, err
	}
	bits := fs.FileMode(0o777)
	if v.EmptyDir.Mode != nil {
		bits = fs.FileMode(*v.EmptyDir.Mode) & fs.ModePerm
		if *v.EmptyDir.Mode&0o1000 != 0 {
			bits |= fs.ModeSticky
		}
	}
	if err := (owner{fsGroup: fsGroup(pod)}).setDir(dir, bits); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(marker), 0o750); err != nil {
		return nil, err
	}
	return &mounted{path: dir}, os.WriteFile(marker, nil, 0o640)
}

// emptyDirDone: a volume in memory is gone after a reboot, although its marker is still there.
func emptyDirDone(dir, marker string, medium corev1.StorageMedium) (bool, error) {
	if _, err := os.Stat(marker); err != nil {
		return false, ignoreNotExist(err)
	}
	if medium == corev1.StorageMediumDefault {
		_, err := os.Stat(dir)
		return err == nil, ignoreNotExist(err)
	}
	mounted, err := isMountPoint(dir)
	return mounted, ignoreNotExist(err)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// tmpfsSize is the least of the volume's limit, the pod's memory limit and the node's allocatable memory.
func tmpfsSize(pod *corev1.Pod, source *corev1.EmptyDirVolumeSource, allocatable corev1.ResourceList) string {
	var size *resource.Quantity
	limit := func(q resource.Quantity) {
		if q.Sign() > 0 && (size == nil || q.Cmp(*size) < 0) {
			size = &q
		}
	}
	limit(allocatable[corev1.ResourceMemory])
	if limits, all := podMemoryLimit(pod); all {
		limit(limits)
	}
	if source.SizeLimit != nil {
		limit(*source.SizeLimit)
	}
	if size == nil {
		return ""
	}
	return fmt.Sprintf("size=%d", size.Value())
}

// podMemoryLimit is meaningful only if every container has one, or the pod itself.
func podMemoryLimit(pod *corev1.Pod) (resource.Quantity, bool) {
	if pod.Spec.Resources != nil {
		if q, ok := pod.Spec.Resources.Limits[corev1.ResourceMemory]; ok {
			return q, true
		}
	}
	for i := range pod.Spec.Containers {
		if _, ok := pod.Spec.Containers[i].Resources.Limits[corev1.ResourceMemory]; !ok {
			return resource.Quantity{}, false
		}
	}
	return resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})[corev1.ResourceMemory], true
}

func (m *Manager) mountHugePages(pod *corev1.Pod, v *corev1.Volume, dir string) error {
	size, err := hugePageSize(pod, v.EmptyDir.Medium)
	if err != nil {
		return err
	}
	if err := ensureDir(dir); err != nil {
		return err
	}
	if mounted, err := isMountPoint(dir); err != nil || mounted {
		return err
	}
	return wrapMount(dir, unix.Mount("nodev", dir, "hugetlbfs", 0, fmt.Sprintf("pagesize=%d", size.Value())))
}

// hugePageSize comes from the medium, or, for plain HugePages, from the only page size that the pod requests.
func hugePageSize(pod *corev1.Pod, medium corev1.StorageMedium) (resource.Quantity, error) {
	if suffix, ok := strings.CutPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix)); ok {
		return resource.ParseQuantity(suffix)
	}
	sizes := map[string]struct{}{}
	eachContainer(pod, func(c *corev1.Container) {
		for name := range c.Resources.Requests {
			if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
				sizes[size] = struct{}{}
			}
		}
	})
	if len(sizes) != 1 {
		return resource.Quantity{}, fmt.Errorf("medium HugePages needs exactly one page size in the pod's requests, found %d", len(sizes))
	}
	return resource.ParseQuantity(sortedKeys(sizes)[0])
}
