package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const etcHosts = "/etc/hosts"

// MountEnv is what the mounts of a container depend on beside its spec.
type MountEnv struct {
	PodIPs   []string
	Hostname string                 // as in the sandbox
	Domain   string                 // FQDN if the pod has a subdomain, e.g. web-0.web.ns.svc.cluster.local; else empty
	Env      []*runtimeapi.KeyValue // for subPathExpr
	Images   map[string]string      // volume name → image reference that the runtime pulled, for image volumes
	Restarts int                    // names the termination message file
	Handler  string                 // runtime handler of the sandbox, for recursive read-only mounts
	// UIDMappings and GIDMappings are those of the pod's user namespace, if it has one.
	UIDMappings, GIDMappings []*runtimeapi.IDMapping
}

// ContainerMounts returns what the runtime is to mount into a container whose pod is set up: its volumes in the order of the
// spec, then /etc/hosts, then the termination message file. Paths that subPath names are bound into the pod's directory here.
func (m *Manager) ContainerMounts(pod *corev1.Pod, c *corev1.Container, env MountEnv) ([]*runtimeapi.Mount, []*runtimeapi.Device, error) {
	s, _ := m.known(pod.UID)
	if s == nil {
		return nil, nil, fmt.Errorf("volumes of pod %s are not set up", pod.UID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	mounts := make([]*runtimeapi.Mount, 0, len(c.VolumeMounts)+2)
	ownHosts := true
	for i := range c.VolumeMounts {
		mount, err := m.volumeMount(pod, c, i, s.ready, env)
		if err != nil {
			return nil, nil, err
		}
		mounts = append(mounts, mount)
		ownHosts = ownHosts && filepath.Clean(mount.ContainerPath) != etcHosts
	}
	if ownHosts && (pod.Spec.HostNetwork || len(env.PodIPs) > 0) {
		path, err := m.writeHosts(pod, env)
		if err != nil {
			return nil, nil, fmt.Errorf("write hosts file: %w", err)
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: etcHosts, HostPath: path, SelinuxRelabel: true})
	}
	if c.TerminationMessagePath != "" {
		path, err := m.terminationFile(pod, c.Name, env.Restarts)
		if err != nil {
			return nil, nil, fmt.Errorf("make termination message file: %w", err)
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: c.TerminationMessagePath, HostPath: path, SelinuxRelabel: true})
	}
	for _, mount := range mounts {
		mount.UidMappings, mount.GidMappings = env.UIDMappings, env.GIDMappings
	}
	devices, err := blockDevices(c, s.ready)
	return mounts, devices, err
}

func (m *Manager) volumeMount(pod *corev1.Pod, c *corev1.Container, index int, ready map[string]*mounted, env MountEnv) (*runtimeapi.Mount, error) {
	spec := &c.VolumeMounts[index]
	v := ready[spec.Name]
	if v == nil || v.block {
		return nil, fmt.Errorf("mount cannot be satisfied for container %q, because the volume is missing (is it a block volume?): %q", c.Name, spec.Name)
	}
	subPath, err := expandSubPath(spec, env.Env)
	if err != nil {
		return nil, err
	}
	mount := &runtimeapi.Mount{
		ContainerPath: spec.MountPath,
		HostPath:      v.path,
		Readonly:      spec.ReadOnly || v.readOnly,
		Propagation:   propagation(spec.MountPropagation),
		MountOptions:  spec.BindMountOptions,
	}
	if !filepath.IsAbs(mount.ContainerPath) {
		mount.ContainerPath = filepath.Join("/", mount.ContainerPath)
	}
	if mount.RecursiveReadOnly, err = m.recursiveReadOnly(spec, env.Handler); err != nil {
		return nil, err
	}
	if image, ok := env.Images[spec.Name]; ok {
		mount.HostPath, mount.Image = "", &runtimeapi.ImageSpec{Image: image, UserSpecifiedImage: imageOf(pod, spec.Name)}
		if subPath != "." {
			mount.ImageSubPath = subPath
		}
		return mount, nil
	}
	if v.path == "" {
		return nil, fmt.Errorf("image of volume %q is not pulled", spec.Name)
	}
	mount.SelinuxRelabel = !isHostPath(pod, spec.Name)
	if subPath != "." {
		mount.HostPath, err = m.bindSubPath(pod, c.Name, index, spec.Name, v, subPath)
		if err != nil {
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", spec.Name, c.Name, err)
		}
	}
	return mount, nil
}

func propagation(mode *corev1.MountPropagationMode) runtimeapi.MountPropagation {
	if mode == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	}
	switch *mode {
	case corev1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case corev1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	case corev1.MountPropagationNone:
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

func (m *Manager) recursiveReadOnly(spec *corev1.VolumeMount, handler string) (bool, error) {
	if spec.RecursiveReadOnly == nil || *spec.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	supported := m.cfg.RecursiveReadOnly != nil && m.cfg.RecursiveReadOnly(handler)
	if *spec.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled && !supported {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", spec.Name)
	}
	return supported, nil
}

func imageOf(pod *corev1.Pod, volume string) string {
	if v := findVolume(pod, volume); v != nil && v.Image != nil {
		return v.Image.Reference
	}
	return ""
}

func isHostPath(pod *corev1.Pod, volume string) bool {
	v := findVolume(pod, volume)
	return v != nil && v.HostPath != nil
}

func findVolume(pod *corev1.Pod, name string) *corev1.Volume {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == name {
			return &pod.Spec.Volumes[i]
		}
	}
	return nil
}

func blockDevices(c *corev1.Container, ready map[string]*mounted) ([]*runtimeapi.Device, error) {
	devices := make([]*runtimeapi.Device, 0, len(c.VolumeDevices))
	for _, spec := range c.VolumeDevices {
		v := ready[spec.Name]
		if v == nil || !v.block {
			return nil, fmt.Errorf("block volume %q of container %q is not ready", spec.Name, c.Name)
		}
		permissions := "mrw"
		if v.readOnly {
			permissions = "r"
		}
		devices = append(devices, &runtimeapi.Device{HostPath: v.path, ContainerPath: spec.DevicePath, Permissions: permissions})
	}
	return devices, nil
}

// keptMessages is how many termination message files of earlier attempts stay readable.
const keptMessages = 3

// terminationFile makes the file that a container may leave its last words in. Anybody in the container may write to it.
func (m *Manager) terminationFile(pod *corev1.Pod, container string, restarts int) (string, error) {
	dir := filepath.Join(m.podDir(pod.UID), "containers", container)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	if err := ignoreNotExist(os.Remove(filepath.Join(dir, strconv.Itoa(restarts-keptMessages)))); err != nil {
		return "", err
	}
	path := filepath.Join(dir, strconv.Itoa(restarts))
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return "", err
	}
	return path, os.Chmod(path, 0o666)
}

// ReadFile reads a file inside a volume of the pod, for podenv.Input.ReadFile.
func (m *Manager) ReadFile(uid types.UID, volume, path string) ([]byte, error) {
	s, _ := m.known(uid)
	if s == nil {
		return nil, fmt.Errorf("volumes of pod %s are not set up", uid)
	}
	s.mu.Lock()
	v := s.ready[volume]
	s.mu.Unlock()
	if v == nil || v.block {
		return nil, fmt.Errorf("cannot find the volume %q", volume)
	}
	return readBeneath(v.path, path)
}
