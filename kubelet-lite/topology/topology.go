// Package topology gives containers CPUs of their own and memory that is near them: the kubelet's CPU manager (policy static), memory manager
// (policy Static) and topology manager, which has them and the devices agree on the same NUMA nodes. All is decided when the node admits a
// pod; deciding is pure, over a Machine. Who has what is on disk, in files that have upstream's names and fields: cpu_manager_state and
// memory_manager_state.
//
//	pod ──▶ for each container, or for the pod: hints of CPUs, memory, devices ─▶ policy: nodes, or no ─▶ take CPUs, memory, devices
package topology

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/utils/cpuset"

	"keelson.dev/internal/statefile"
	"keelson.dev/kubelet-lite/admit"
	"keelson.dev/kubelet-lite/cgroups"
	"keelson.dev/kubelet-lite/metrics"
)

// Config is what a manager works with.
type Config struct {
	RootDir string // /var/lib/kubelet
	Machine Machine
	Kubelet *kubeletconfig.KubeletConfiguration
	// Reservation is what the node keeps for itself.
	Reservation corev1.ResourceList
	// Changed is called when other CPUs are shared than before.
	Changed func()
}

// Manager is safe for concurrent use.
type Manager struct {
	cfg      Config
	topology policy
	wholePod bool // scope pod
	pinning  bool // CPU manager: static
	binding  bool // memory manager: Static
	options  cpuOptions
	reserved cpuset.CPUSet

	mu     sync.Mutex
	cpus   map[types.UID]map[string]cpuset.CPUSet // by container
	memory memoryState
}

// New returns a manager that knows who had what before. An error is of the configuration, or of a state that does not go with it.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg}
	if err := m.configure(cfg.Kubelet, cfg.Reservation); err != nil {
		return nil, err
	}
	if err := m.load(); err != nil {
		return nil, fmt.Errorf("%w: drain the node and remove the file", err)
	}
	m.measure()
	return m, nil
}

type cpuFile struct {
	Policy  string                          `json:"policyName"`
	Shared  string                          `json:"defaultCpuSet"`
	Entries map[types.UID]map[string]string `json:"entries,omitempty"`
}

type memoryFile struct {
	Policy  string                           `json:"policyName"`
	Entries map[types.UID]map[string][]Block `json:"entries,omitempty"`
}

func (m *Manager) path(name string) string { return filepath.Join(m.cfg.RootDir, name) }

const (
	cpuFileName    = "cpu_manager_state"
	memoryFileName = "memory_manager_state"
)

func (m *Manager) load() error {
	var cpus cpuFile
	var memory memoryFile
	if err := errors.Join(statefile.LoadJSON(m.path(cpuFileName), &cpus), statefile.LoadJSON(m.path(memoryFileName), &memory)); err != nil {
		return err
	}
	m.cpus, m.memory.held = map[types.UID]map[string]cpuset.CPUSet{}, map[types.UID]map[string][]Block{}
	if len(cpus.Entries) > 0 && !m.pinning {
		return fmt.Errorf("%s: containers have CPUs of their own, which the policy none does not know", cpuFileName)
	}
	if len(memory.Entries) > 0 && !m.binding {
		return fmt.Errorf("%s: containers have memory of their own, which the policy None does not know", memoryFileName)
	}
	maps.Copy(m.memory.held, memory.Entries)
	for pod, containers := range cpus.Entries {
		m.cpus[pod] = map[string]cpuset.CPUSet{}
		for name, list := range containers {
			set, err := cpuset.Parse(list)
			if err != nil {
				return fmt.Errorf("%s: %w", cpuFileName, err)
			}
			if !set.IsSubsetOf(m.cfg.Machine.all().Difference(m.reserved)) {
				return fmt.Errorf("%s: container %s has CPUs %s, of which some are reserved or not there", cpuFileName, name, set)
			}
			m.cpus[pod][name] = set
		}
	}
	return nil
}

// save needs the lock.
func (m *Manager) save() error {
	var errs []error
	if m.pinning {
		file := cpuFile{Policy: static, Shared: m.shared().String(), Entries: map[types.UID]map[string]string{}}
		for pod, containers := range m.cpus {
			file.Entries[pod] = map[string]string{}
			for name, set := range containers {
				file.Entries[pod][name] = set.String()
			}
		}
		errs = append(errs, statefile.SaveJSON(m.path(cpuFileName), file))
	}
	if m.binding {
		errs = append(errs, statefile.SaveJSON(m.path(memoryFileName), memoryFile{kubeletconfig.StaticMemoryManagerPolicy, m.memory.held}))
	}
	m.measure()
	return errors.Join(errs...)
}

func (m *Manager) measure() {
	if m.pinning {
		metrics.SharedCPUs.Set(float64(1000 * m.shared().Difference(m.reserved).Size()))
		metrics.ExclusiveCPUs.Set(float64(m.exclusive().Size()))
	}
}

// exclusive are the CPUs that containers have for themselves. It needs the lock, as shared does.
func (m *Manager) exclusive() cpuset.CPUSet {
	out := cpuset.New()
	for _, containers := range m.cpus {
		out = out.Union(slices.Collect(maps.Values(containers))...)
	}
	return out
}

// shared are the CPUs of all other containers.
func (m *Manager) shared() cpuset.CPUSet {
	out := m.cfg.Machine.all().Difference(m.exclusive())
	if m.options.strict {
		out = out.Difference(m.reserved)
	}
	return out
}

// Devices are those that device plugins have for a pod that is to be admitted; *devices.Admission has them.
type Devices interface {
	// Hints has a list for each resource that a container asks for and that lies near some nodes; nil stands for all containers together.
	Hints(c *corev1.Container) [][]Hint
	// Take chooses devices for a container, near the nodes as far as there are some.
	Take(ctx context.Context, c *corev1.Container, near Nodes) error
	// Commit makes it so. Until then nothing is taken.
	Commit() error
}

// Admit gives a pod what it is to have for itself, or nothing of it. A pod that has it keeps it.
func (m *Manager) Admit(ctx context.Context, pod *corev1.Pod, devices Devices) *admit.Rejection {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.topology.name != none {
		metrics.TopologyRequests.Inc()
	}
	t := &trial{m: m, pod: pod, devices: devices}
	t.again = m.cpus[pod.UID] != nil || m.memory.held[pod.UID] != nil
	err := t.run(ctx)
	if err == nil {
		return nil
	}
	if m.topology.name != none {
		metrics.TopologyErrors.Inc()
	}
	if errors.Is(err, errNoNodes) {
		return &admit.Rejection{Reason: "TopologyAffinityError", Message: err.Error()}
	}
	if aligned, ok := errors.AsType[*alignmentError](err); ok {
		return &admit.Rejection{Reason: "SMTAlignmentError", Message: aligned.Error()}
	}
	return &admit.Rejection{Reason: "UnexpectedAdmissionError", Message: fmt.Sprintf("Allocate failed due to %v, which is unexpected", err)}
}

var errNoNodes = errors.New("Resources cannot be allocated with Topology locality") //nolint:staticcheck // upstream's message, which starts like that

// trial is one admission under way.
type trial struct {
	m       *Manager
	pod     *corev1.Pod
	devices Devices
	again   bool // the pod has CPUs and memory from before

	spare cpuset.CPUSet // CPUs of init containers, which have ended when the next one starts
	ended [][]Block     // their memory
}

// containers are all of a pod's, in the order in which they start.
func containers(pod *corev1.Pod) (out []*corev1.Container) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			out = append(out, &list[i])
		}
	}
	return out
}

// run gives the pod what it wants, and takes it back if something is not to be had.
func (t *trial) run(ctx context.Context) error {
	if t.again {
		return errors.Join(t.place(ctx), t.devices.Commit())
	}
	cpus, memory, uid := map[string]cpuset.CPUSet{}, map[string][]Block{}, t.pod.UID
	t.m.cpus[uid], t.m.memory.held[uid] = cpus, memory
	err := t.place(ctx)
	if len(cpus) == 0 {
		delete(t.m.cpus, uid)
	}
	if len(memory) == 0 {
		delete(t.m.memory.held, uid)
	}
	if err == nil && len(cpus)+len(memory) > 0 {
		err = t.m.save()
	}
	if err == nil {
		err = t.devices.Commit()
	}
	if err != nil {
		delete(t.m.cpus, uid)
		delete(t.m.memory.held, uid)
		return err
	}
	if len(cpus) > 0 {
		t.m.cfg.Changed()
	}
	return nil
}

func (t *trial) place(ctx context.Context) error {
	var near Hint
	for i, c := range containers(t.pod) {
		if policy := t.m.topology; policy.name != none && (i == 0 || !t.m.wholePod) {
			about, ok := c, false
			if t.m.wholePod {
				about = nil
			}
			if near, ok = policy.merge(t.hints(about)); !ok {
				return errNoNodes
			}
			klog.FromContext(ctx).V(2).Info("Topology chosen", "pod", klog.KObj(t.pod), "container", c.Name, "nodes", near.Nodes.IDs(), "preferred", near.Preferred)
		}
		for _, take := range []func(*corev1.Container, Hint) error{t.takeCPUs, t.takeMemory} {
			if err := take(c, near); err != nil {
				return err
			}
		}
		if err := t.devices.Take(ctx, c, near.Nodes); err != nil {
			return err
		}
	}
	return nil
}

// hints are those for a container, or for the whole pod.
func (t *trial) hints(c *corev1.Container) (out [][]Hint) {
	if !t.again {
		if n := t.amount(c, t.wantsCPUs); n > 0 {
			out = append(out, t.m.cfg.Machine.cpuHints(t.m.freeCPUs(), t.spare, int(n)))
		}
		if want := t.wantsMemory(c); len(want) > 0 {
			if hints := t.m.memory.hints(want, slices.Concat(t.ended...)); len(hints) > 0 { // without any, taking says what is wrong
				out = append(out, hints)
			}
		}
	}
	return append(out, t.devices.Hints(c)...)
}

// amount is what a container needs, or what all of them need at once at most: those that run on, and each init container beside the
// sidecars before it.
func (t *trial) amount(c *corev1.Container, need func(*corev1.Container) int64) int64 {
	if c != nil {
		return need(c)
	}
	var lasting, most int64
	for _, c := range containers(t.pod) {
		if n := need(c); t.ends(c) {
			most = max(most, lasting+n)
		} else {
			lasting += n
		}
	}
	return max(most, lasting)
}

// ends reports whether a container is one that ends before the others start.
func (t *trial) ends(c *corev1.Container) bool {
	isIt := func(other corev1.Container) bool { return other.Name == c.Name }
	return slices.ContainsFunc(t.pod.Spec.InitContainers, isIt) && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
}

// eligible reports whether a pod may have anything for itself.
func (t *trial) eligible() bool {
	return !t.again && cgroups.QoS(t.pod) == corev1.PodQOSGuaranteed && !resourcehelper.IsPodLevelResourcesSet(t.pod)
}

func (t *trial) wantsCPUs(c *corev1.Container) int64 {
	q := c.Resources.Requests.Cpu()
	if !t.m.pinning || !t.eligible() || q.Value()*1000 != q.MilliValue() {
		return 0
	}
	return q.Value()
}

func (t *trial) wantsMemory(c *corev1.Container) map[corev1.ResourceName]int64 {
	out := map[corev1.ResourceName]int64{}
	if !t.m.binding || !t.eligible() {
		return out
	}
	for _, every := range containers(t.pod) {
		for name := range every.Resources.Requests {
			if n := t.amount(c, func(c *corev1.Container) int64 { q := c.Resources.Requests[name]; return q.Value() }); n > 0 && isMemory(name) {
				out[name] = n
			}
		}
	}
	return out
}

// freeCPUs are those that nobody has and that may be given. It needs the lock.
func (m *Manager) freeCPUs() cpuset.CPUSet { return m.shared().Difference(m.reserved) }

func (t *trial) takeCPUs(c *corev1.Container, near Hint) (err error) {
	n := int(t.wantsCPUs(c))
	if n == 0 {
		return nil
	}
	metrics.PinningRequests.Inc()
	defer func() {
		if err != nil {
			metrics.PinningErrors.Inc()
		}
	}()
	machine := &t.m.cfg.Machine
	free := t.m.freeCPUs().Union(t.spare)
	if t.m.options.fullCores {
		cores := machine.groups(t.m.reserved, byCore)
		whole := machine.where(func(c CPU) bool { return free.Contains(c.ID) && cores[c.Core].IsEmpty() })
		if n%machine.threads() != 0 || n > whole.Size() {
			return &alignmentError{requested: n, threads: machine.threads(), available: whole.Size()}
		}
	}
	got, err := machine.near(free, n, near.Nodes, t.m.options)
	if err != nil {
		return err
	}
	if t.m.cpus[t.pod.UID][c.Name] = got; t.ends(c) {
		t.spare = t.spare.Union(got)
	} else {
		t.spare = t.spare.Difference(got)
	}
	return nil
}

func (t *trial) takeMemory(c *corev1.Container, near Hint) error {
	want := t.wantsMemory(c)
	if len(want) == 0 {
		return nil
	}
	metrics.BindingRequests.Inc()
	got, err := t.m.memory.take(want, slices.Concat(t.ended...), near)
	if err != nil {
		metrics.BindingErrors.Inc()
		return err
	}
	inherit(t.ended, got)
	if t.m.memory.held[t.pod.UID][c.Name] = got; t.ends(c) {
		t.ended = append(t.ended, got)
	}
	return nil
}

// Release takes back what a pod had.
func (m *Manager) Release(pod types.UID) error {
	return m.keep(func(uid types.UID) bool { return uid != pod })
}

// Orphans takes back what pods had that are not among the known ones.
func (m *Manager) Orphans(known func(types.UID) bool) error { return m.keep(known) }

func (m *Manager) keep(keep func(types.UID) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, shared := len(m.cpus)+len(m.memory.held), len(m.cpus)
	maps.DeleteFunc(m.cpus, func(uid types.UID, _ map[string]cpuset.CPUSet) bool { return !keep(uid) })
	maps.DeleteFunc(m.memory.held, func(uid types.UID, _ map[string][]Block) bool { return !keep(uid) })
	if before == len(m.cpus)+len(m.memory.held) {
		return nil
	}
	if len(m.cpus) < shared {
		m.cfg.Changed()
	}
	return m.save()
}

// Place is where a container runs, as the kernel writes lists of CPUs and nodes; what is empty is wherever. Nobody else has exclusive CPUs.
func (m *Manager) Place(pod types.UID, container string) (cpus, nodes string, exclusive bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var near Nodes
	for _, b := range m.memory.held[pod][container] {
		near |= nodesOf(b.Nodes)
	}
	own, exclusive := m.cpus[pod][container]
	if m.pinning && !exclusive {
		own = m.shared()
	}
	return own.String(), cpuset.New(near.IDs()...).String(), exclusive
}

// Exclusive reports whether a container of a pod has CPUs of its own. Then the pod's CPU time is not limited.
func (m *Manager) Exclusive(pod types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.cpus[pod]) > 0
}

// Fixes names what forbids that a pod gets other resources than it was granted: guaranteed pods have theirs for good.
func (m *Manager) Fixes(granted, wanted *corev1.Pod) string {
	if cgroups.QoS(wanted) != corev1.PodQOSGuaranteed {
		return ""
	}
	before := containers(granted)
	for i, c := range containers(wanted) {
		switch requests := c.Resources.Requests; {
		case m.pinning && !requests.Cpu().Equal(*before[i].Resources.Requests.Cpu()):
			return fmt.Sprintf("CPU Manager policy %q", static)
		case m.binding && !requests.Memory().Equal(*before[i].Resources.Requests.Memory()):
			return fmt.Sprintf("Memory Manager policy %q", kubeletconfig.StaticMemoryManagerPolicy)
		}
	}
	return ""
}

// Held are the CPUs and the memory that a container has for itself, as the pod-resources API tells of them.
func (m *Manager) Held(pod types.UID, container string) ([]int64, []*podresourcesapi.ContainerMemory) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return numbers(m.cpus[pod][container]), blocksOf(m.memory.held[pod][container])
}

// Allocatable are the CPUs and the memory that containers may have for themselves.
func (m *Manager) Allocatable() (cpus []int64, blocks []*podresourcesapi.ContainerMemory) {
	if m.pinning {
		cpus = numbers(m.cfg.Machine.all().Difference(m.reserved))
	}
	for _, n := range m.cfg.Machine.Nodes {
		for _, kind := range slices.Sorted(maps.Keys(memory(n))) {
			if size := m.memory.allocatable(node(n.Id), kind); m.binding && size > 0 {
				blocks = append(blocks, blocksOf([]Block{{Nodes: []int{n.Id}, Type: kind, Size: size}})...)
			}
		}
	}
	return cpus, blocks
}

func numbers(set cpuset.CPUSet) (out []int64) {
	for _, id := range set.List() {
		out = append(out, int64(id))
	}
	return out
}

func blocksOf(blocks []Block) (out []*podresourcesapi.ContainerMemory) {
	for _, b := range blocks {
		memory := &podresourcesapi.ContainerMemory{MemoryType: string(b.Type), Size: uint64(b.Size), Topology: &podresourcesapi.TopologyInfo{}}
		for _, id := range b.Nodes {
			memory.Topology.Nodes = append(memory.Topology.Nodes, &podresourcesapi.NUMANode{ID: int64(id)})
		}
		out = append(out, memory)
	}
	return out
}
