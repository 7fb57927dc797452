package eviction

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Signal is something that can run out, by the name that KubeletConfiguration has for it.
type Signal string

// The signals.
const (
	MemoryAvailable            Signal = "memory.available"
	AllocatableMemoryAvailable Signal = "allocatableMemory.available"
	NodeFsAvailable            Signal = "nodefs.available"
	NodeFsInodesFree           Signal = "nodefs.inodesFree"
	ImageFsAvailable           Signal = "imagefs.available"
	ImageFsInodesFree          Signal = "imagefs.inodesFree"
	ContainerFsAvailable       Signal = "containerfs.available"
	ContainerFsInodesFree      Signal = "containerfs.inodesFree"
	PIDAvailable               Signal = "pid.available"
)

var conditions = [...]corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

// traits are what is fixed for each signal. Memory comes first: nothing works without it.
func (s Signal) traits() (urgency int, condition corev1.NodeConditionType, name corev1.ResourceName) {
	switch s {
	case MemoryAvailable, AllocatableMemoryAvailable:
		return 0, corev1.NodeMemoryPressure, corev1.ResourceMemory
	case NodeFsAvailable, ImageFsAvailable, ContainerFsAvailable:
		return 1, corev1.NodeDiskPressure, corev1.ResourceEphemeralStorage
	case NodeFsInodesFree, ImageFsInodesFree, ContainerFsInodesFree:
		return 2, corev1.NodeDiskPressure, "inodes"
	case PIDAvailable:
		return 3, corev1.NodePIDPressure, "pids"
	}
	return 4, "", ""
}

func (s Signal) urgency() int                        { u, _, _ := s.traits(); return u }
func (s Signal) condition() corev1.NodeConditionType { _, c, _ := s.traits(); return c }
func (s Signal) resource() corev1.ResourceName       { _, _, r := s.traits(); return r }
func (s Signal) disk() bool                          { return s.condition() == corev1.NodeDiskPressure }

// Amount is a quantity, or a share of the capacity.
type Amount struct {
	Quantity   resource.Quantity
	Percentage float64 // 0.1 is 10 %; 0 means that Quantity counts
}

func (a Amount) of(capacity int64) int64 {
	if a.Percentage > 0 {
		return int64(a.Percentage * float64(capacity))
	}
	return a.Quantity.Value()
}

// Threshold says how little of a signal is too little.
type Threshold struct {
	Signal Signal
	Least  Amount
	// Grace is for how long a soft threshold must be met; zero is a hard one.
	Grace time.Duration
	// Reclaim is how much more than Least must be free before a met threshold is over.
	Reclaim Amount
}

func (t Threshold) met(o Observation, before bool) bool {
	least := t.Least.of(o.Capacity)
	if before {
		least += t.Reclaim.of(o.Capacity)
	}
	return o.Available < least
}

// Observation is how much there is of a signal and how much is left.
type Observation struct{ Available, Capacity int64 }

// Observe reads the signals from the node's statistics; those that they do not tell are absent.
func Observe(s *statsapi.NodeStats) map[Signal]Observation {
	out := map[Signal]Observation{}
	memory := func(signal Signal, m *statsapi.MemoryStats) {
		if m != nil && m.AvailableBytes != nil && m.WorkingSetBytes != nil {
			out[signal] = Observation{int64(*m.AvailableBytes), int64(*m.AvailableBytes + *m.WorkingSetBytes)}
		}
	}
	memory(MemoryAvailable, s.Memory)
	for _, c := range s.SystemContainers {
		if c.Name == statsapi.SystemContainerPods {
			memory(AllocatableMemoryAvailable, c.Memory)
		}
	}
	disk := func(space, inodes Signal, fs *statsapi.FsStats) {
		if fs == nil {
			return
		}
		if fs.AvailableBytes != nil && fs.CapacityBytes != nil {
			out[space] = Observation{int64(*fs.AvailableBytes), int64(*fs.CapacityBytes)}
		}
		if fs.InodesFree != nil && fs.Inodes != nil && *fs.Inodes > 0 { // some file systems have no fixed number
			out[inodes] = Observation{int64(*fs.InodesFree), int64(*fs.Inodes)}
		}
	}
	disk(NodeFsAvailable, NodeFsInodesFree, s.Fs)
	if s.Runtime != nil {
		disk(ImageFsAvailable, ImageFsInodesFree, s.Runtime.ImageFs)
		disk(ContainerFsAvailable, ContainerFsInodesFree, s.Runtime.ContainerFs)
	}
	if r := s.Rlimit; r != nil && r.MaxPID != nil && r.NumOfRunningProcesses != nil {
		out[PIDAvailable] = Observation{*r.MaxPID - *r.NumOfRunningProcesses, *r.MaxPID}
	}
	return out
}

// Parse reads KubeletConfiguration's four maps. Every soft threshold needs its grace period.
func Parse(hard, soft, grace, reclaim map[string]string) ([]Threshold, error) {
	var out []Threshold
	for _, name := range slices.Sorted(maps.Keys(hard)) {
		t, err := parseOne(name, hard[name], reclaim)
		if err != nil {
			return nil, fmt.Errorf("evictionHard: %w", err)
		}
		out = append(out, t)
	}
	for _, name := range slices.Sorted(maps.Keys(soft)) {
		t, err := parseOne(name, soft[name], reclaim)
		if err != nil {
			return nil, fmt.Errorf("evictionSoft: %w", err)
		}
		t.Grace, err = time.ParseDuration(grace[name])
		if err != nil || t.Grace <= 0 {
			return nil, fmt.Errorf("evictionSoftGracePeriod: %s: want a duration above zero, got %q", name, grace[name])
		}
		out = append(out, t)
	}
	// A threshold of nothing switches its signal off.
	return slices.DeleteFunc(out, func(t Threshold) bool { return t.Least.Percentage == 0 && t.Least.Quantity.IsZero() }), nil
}

func parseOne(name, amount string, reclaim map[string]string) (t Threshold, err error) {
	t.Signal = Signal(name)
	if t.Signal.condition() == "" {
		return t, fmt.Errorf("unknown signal %q", name)
	}
	if t.Least, err = parseAmount(amount); err != nil {
		return t, fmt.Errorf("%s: %w", name, err)
	}
	if text, ok := reclaim[name]; ok {
		if t.Reclaim, err = parseAmount(text); err != nil {
			return t, fmt.Errorf("evictionMinimumReclaim: %s: %w", name, err)
		}
	}
	return t, nil
}

func parseAmount(text string) (Amount, error) {
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		if err != nil || percent < 0 || percent > 100 {
			return Amount{}, fmt.Errorf("want a percentage from 0 to 100, got %q", text)
		}
		return Amount{Percentage: percent / 100}, nil
	}
	quantity, err := resource.ParseQuantity(text)
	if err != nil || quantity.Sign() < 0 {
		return Amount{}, fmt.Errorf("want a quantity of zero or more, got %q", text)
	}
	return Amount{Quantity: quantity}, nil
}
