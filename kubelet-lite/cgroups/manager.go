// Package cgroups keeps the tree that gives each pod its share of the node: the kubepods root, one group per QoS class, one per
// pod. The runtime makes the containers' own groups below.
package cgroups

import (
	"errors"

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
}

// Manager writes the tree. It is safe for concurrent use.
type Manager struct{ cfg Config }

// New detects the cgroup version and checks that a custom root exists in every controller.
func New(cfg Config) (*Manager, error) { return &Manager{cfg: cfg}, nil }

var errUnfinished = errors.New("not written yet")

// V2 reports whether the unified hierarchy is in use.
func (m *Manager) V2() bool { return false }

// EnsureRoot makes the kubepods and QoS groups and applies the node's allocatable resources.
func (m *Manager) EnsureRoot(allocatable corev1.ResourceList) error { return errUnfinished }

// PodParent is the cgroup parent of the pod's sandbox, in the form that the CRI expects of the driver.
func (m *Manager) PodParent(pod *corev1.Pod) string { return "" }

// EnsurePod makes the pod's group with its limits; it also applies changed ones.
func (m *Manager) EnsurePod(pod *corev1.Pod) error { return errUnfinished }

// UpdatePod applies the limits of a resized pod.
func (m *Manager) UpdatePod(pod *corev1.Pod) error { return errUnfinished }

// UpdateQoS sets the shares of the burstable group from the requests of all its pods.
func (m *Manager) UpdateQoS(pods []*corev1.Pod) error { return errUnfinished }

// RemovePod kills what is left in the pod's group and removes it. It is idempotent.
func (m *Manager) RemovePod(uid types.UID) error { return errUnfinished }

// Pods lists the pods that have a group, for cleaning up after pods that are gone.
func (m *Manager) Pods() (map[types.UID]struct{}, error) { return nil, errUnfinished }
