// Package cgroups keeps the tree that gives each pod its share of the node: the kubepods root, one group per QoS class, one per
// pod. The runtime makes the containers' own groups below.
//
//	kubepods                  allocatable of the node
//	├─ pod<uid>               guaranteed pods
//	├─ burstable/pod<uid>     shares: the sum of all requests below
//	└─ besteffort/pod<uid>    the least shares there are
package cgroups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Config says where the tree hangs and what it enforces.
type Config struct {
	Root         string // --cgroup-root, default /
	Systemd      bool   // driver: false is cgroupfs
	PodPidsLimit int64  // <= 0: no limit
	NoCPUQuota   bool   // --cpu-cfs-quota=false
	// EnforceAllocatable limits the kubepods group to the node's allocatable memory and pids (--enforce-node-allocatable=pods).
	EnforceAllocatable bool
	Mountpoint         string // default /sys/fs/cgroup
	// Exclusive reports whether a pod has CPUs of its own, which it may use as it likes; nil: none has.
	Exclusive func(pod types.UID) bool
}

// Manager writes the tree. It is safe for concurrent use.
type Manager struct {
	cfg    Config
	tree   hierarchy
	driver driver

	mu sync.Mutex // serialises changes, as parents are made on the way to their children
}

// group names a cgroup as a list of parts below the file system's root: [kubepods burstable pod<uid>].
type group []string

// driver makes, limits and removes groups.
type driver interface {
	ensure(g group, l limits) error
	remove(ctx context.Context, g group) error
	// dir is the group's directory below a hierarchy's mount point.
	dir(g group) string
	// parent is what the CRI wants as the sandbox's cgroup parent.
	parent(g group) string
	// uid undoes dir for the last part of a pod's group.
	uid(name string) (types.UID, bool)
}

// New detects the cgroup version. It changes nothing.
func New(cfg Config) (*Manager, error) {
	if cfg.Mountpoint == "" {
		cfg.Mountpoint = "/sys/fs/cgroup"
	}
	tree, err := detect(cfg.Mountpoint)
	if err != nil {
		return nil, fmt.Errorf("detect cgroups: %w", err)
	}
	m := &Manager{cfg: cfg, tree: tree, driver: cgroupfs{tree}}
	if cfg.Systemd {
		m.driver = &systemd{tree: tree}
	}
	return m, nil
}

// V2 reports whether the unified hierarchy is in use.
func (m *Manager) V2() bool { return m.tree.v2 }

// Directory returns the directory that holds a pod's memory (v1: of the named controller; v2: of all), for statistics.
func (m *Manager) Directory(controller string, pod *corev1.Pod) (string, bool) {
	return m.tree.path(controller, m.driver.dir(m.podGroup(pod.UID, QoS(pod))))
}

// RootDirectory is Directory for the kubepods group.
func (m *Manager) RootDirectory(controller string) (string, bool) {
	return m.tree.path(controller, m.driver.dir(m.root()))
}

func (m *Manager) root() group {
	var g group
	for part := range strings.SplitSeq(m.cfg.Root, "/") {
		if part != "" {
			g = append(g, part)
		}
	}
	return append(g, "kubepods")
}

func (m *Manager) qosGroup(class corev1.PodQOSClass) group {
	if class == corev1.PodQOSGuaranteed {
		return m.root()
	}
	return append(m.root(), strings.ToLower(string(class)))
}

func (m *Manager) podGroup(uid types.UID, class corev1.PodQOSClass) group {
	return append(m.qosGroup(class), "pod"+string(uid))
}

// EnsureRoot makes the kubepods and QoS groups, filling a custom root's cpuset where it is empty, and applies the node's
// allocatable resources.
func (m *Manager) EnsureRoot(allocatable corev1.ResourceList) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.driver.ensure(m.root(), rootLimits(allocatable, m.cfg.EnforceAllocatable)); err != nil {
		return fmt.Errorf("make kubepods cgroup: %w", err)
	}
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		if err := m.driver.ensure(m.qosGroup(class), limits{shares: minShares}); err != nil {
			return fmt.Errorf("make %s cgroup: %w", class, err)
		}
	}
	return nil
}

// PodParent is the cgroup parent of the pod's sandbox, in the form that the CRI expects of the driver.
func (m *Manager) PodParent(pod *corev1.Pod) string {
	return m.driver.parent(m.podGroup(pod.UID, QoS(pod)))
}

// EnsurePod makes the pod's group with its limits; it also applies changed ones.
func (m *Manager) EnsurePod(pod *corev1.Pod) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.driver.ensure(m.podGroup(pod.UID, QoS(pod)), podLimits(pod, m.cfg)); err != nil {
		return fmt.Errorf("make pod cgroup: %w", err)
	}
	return nil
}

// UpdatePod applies the limits of a resized pod. Upward changes must come before those of its containers, downward ones after.
func (m *Manager) UpdatePod(pod *corev1.Pod) error { return m.EnsurePod(pod) }

// UpdateQoS sets the shares of the burstable group from the requests of all its pods.
func (m *Manager) UpdateQoS(pods []*corev1.Pod) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.driver.ensure(m.qosGroup(corev1.PodQOSBurstable), limits{shares: burstableShares(pods)}); err != nil {
		return fmt.Errorf("update burstable cgroup: %w", err)
	}
	return nil
}

// RemovePod kills what is left in the pod's group and removes it. It is idempotent.
func (m *Manager) RemovePod(uid types.UID) error {
	if uid == "" || strings.Contains(string(uid), "/") {
		return fmt.Errorf("invalid pod UID %q", uid)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	var errs []error
	for _, class := range classes {
		errs = append(errs, m.driver.remove(ctx, m.podGroup(uid, class)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove pod cgroup: %w", err)
	}
	return nil
}

var classes = [...]corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort}

// Pods lists the pods that have a group, for cleaning up after pods that are gone.
func (m *Manager) Pods() (map[types.UID]struct{}, error) {
	found := map[types.UID]struct{}{}
	for _, class := range classes {
		for _, mount := range m.tree.mounts() {
			entries, err := os.ReadDir(filepath.Join(mount, m.driver.dir(m.qosGroup(class))))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			for _, entry := range entries {
				if uid, ok := m.driver.uid(entry.Name()); ok && entry.IsDir() {
					found[uid] = struct{}{}
				}
			}
		}
	}
	return found, nil
}
