package topology

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"
)

// Names of the policies that are not in the configuration's package.
const (
	none   = "none"
	static = "static"
)

// mostNodes is how many NUMA nodes the topology manager takes on unless it is told otherwise: it looks at all of their combinations.
const mostNodes = 8

// configure reads the policies and checks them against the machine.
func (m *Manager) configure(k *kubeletconfig.KubeletConfiguration, reservation corev1.ResourceList) error {
	for _, step := range []func() error{
		func() error { return m.configureTopology(k) },
		func() error { return m.configureCPUs(k, reservation) },
		func() error { return m.configureMemory(k, reservation) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) configureTopology(k *kubeletconfig.KubeletConfiguration) error {
	m.topology = policy{name: k.TopologyManagerPolicy, machine: &m.cfg.Machine}
	most := mostNodes
	for name, value := range k.TopologyManagerPolicyOptions {
		var err error
		switch name {
		case "prefer-closest-numa-nodes":
			m.topology.closest, err = strconv.ParseBool(value)
		case "max-allowable-numa-nodes":
			if most, err = strconv.Atoi(value); err == nil && most < mostNodes {
				err = fmt.Errorf("it is below %d", mostNodes)
			}
		default:
			err = fmt.Errorf("unknown")
		}
		if err != nil {
			return fmt.Errorf("topologyManagerPolicyOptions: %s=%s: %w", name, value, err)
		}
	}
	switch k.TopologyManagerPolicy {
	case "", none:
		m.topology.name = none
	case kubeletconfig.BestEffortTopologyManagerPolicy, kubeletconfig.RestrictedTopologyManagerPolicy, kubeletconfig.SingleNumaNodeTopologyManagerPolicy:
		if n := len(m.cfg.Machine.Nodes); n > most {
			return fmt.Errorf("topologyManagerPolicy: the machine has %d NUMA nodes, more than %d", n, most)
		}
	default:
		return fmt.Errorf("topologyManagerPolicy: unknown policy %q", k.TopologyManagerPolicy)
	}
	switch k.TopologyManagerScope {
	case "", kubeletconfig.ContainerTopologyManagerScope:
	case kubeletconfig.PodTopologyManagerScope:
		m.wholePod = true
	default:
		return fmt.Errorf("topologyManagerScope: unknown scope %q", k.TopologyManagerScope)
	}
	return nil
}

func (m *Manager) configureCPUs(k *kubeletconfig.KubeletConfiguration, reservation corev1.ResourceList) (err error) {
	switch k.CPUManagerPolicy {
	case "", none:
		return nil
	case static:
		m.pinning = true
	default:
		return fmt.Errorf("cpuManagerPolicy: unknown policy %q", k.CPUManagerPolicy)
	}
	options := map[string]*bool{
		"full-pcpus-only": &m.options.fullCores, "distribute-cpus-across-numa": &m.options.acrossNodes,
		"prefer-align-cpus-by-uncorecache": &m.options.byCache, "strict-cpu-reservation": &m.options.strict,
	}
	for name, value := range k.CPUManagerPolicyOptions {
		option, ok := options[name]
		if !ok {
			return fmt.Errorf("cpuManagerPolicyOptions: %s is unknown or an alpha option, which this kubelet does not have", name)
		}
		if *option, err = strconv.ParseBool(value); err != nil {
			return fmt.Errorf("cpuManagerPolicyOptions: %s: %w", name, err)
		}
	}
	if m.options.byCache && m.options.acrossNodes {
		return fmt.Errorf("cpuManagerPolicyOptions: prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa exclude each other")
	}
	machine := &m.cfg.Machine
	n := int((reservation.Cpu().MilliValue() + 999) / 1000)
	if n == 0 {
		return fmt.Errorf("cpuManagerPolicy: static needs CPUs that are reserved for the system (systemReserved, kubeReserved or reservedSystemCPUs)")
	}
	if m.reserved, err = cpuset.Parse(k.ReservedSystemCPUs); err != nil {
		return fmt.Errorf("reservedSystemCPUs: %w", err)
	}
	if m.reserved.IsEmpty() {
		if m.reserved, err = machine.take(machine.all(), n, m.options); err != nil {
			return fmt.Errorf("reserve CPUs: %w", err)
		}
	}
	if !m.reserved.IsSubsetOf(machine.all()) || m.reserved.Size() != n {
		return fmt.Errorf("reservedSystemCPUs: %s are not %d of the machine's CPUs %s", m.reserved, n, machine.all())
	}
	return nil
}

func (m *Manager) configureMemory(k *kubeletconfig.KubeletConfiguration, reservation corev1.ResourceList) error {
	m.memory = memoryState{machine: &m.cfg.Machine, reserved: map[int]map[corev1.ResourceName]int64{}}
	switch k.MemoryManagerPolicy {
	case "", kubeletconfig.NoneMemoryManagerPolicy:
		return nil
	case kubeletconfig.StaticMemoryManagerPolicy:
		m.binding = true
	default:
		return fmt.Errorf("memoryManagerPolicy: unknown policy %q", k.MemoryManagerPolicy)
	}
	sums := map[corev1.ResourceName]int64{corev1.ResourceMemory: 0}
	for name := range reservation {
		if isMemory(name) {
			sums[name] = 0
		}
	}
	for _, r := range k.ReservedMemory {
		if nodesOf(m.cfg.Machine.nodes())&node(int(r.NumaNode)) == 0 {
			return fmt.Errorf("reservedMemory: the machine has no NUMA node %d", r.NumaNode)
		}
		of := m.memory.reserved[int(r.NumaNode)]
		if of == nil {
			of = map[corev1.ResourceName]int64{}
			m.memory.reserved[int(r.NumaNode)] = of
		}
		for name, q := range r.Limits {
			of[name] += q.Value()
			sums[name] += q.Value()
		}
	}
	if sums[corev1.ResourceMemory] <= 0 {
		return fmt.Errorf("memoryManagerPolicy: Static needs reservedMemory")
	}
	for name, sum := range sums {
		if want := reservation[name]; want.Value() != sum {
			return fmt.Errorf("reservedMemory: %d bytes of %s in all, which must be what the node keeps for itself (kubeReserved, systemReserved and the hard eviction threshold): %d", sum, name, want.Value())
		}
	}
	return nil
}
