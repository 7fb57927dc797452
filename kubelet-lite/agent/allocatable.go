package agent

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"

	"keelson.dev/kubelet-lite/nodestatus"
	"keelson.dev/kubelet-lite/topology"
)

// allocatable is what is left for pods after what the node keeps for itself.
func allocatable(capacity corev1.ResourceList, kube, system, evictionHard map[string]string) (corev1.ResourceList, error) {
	out := capacity.DeepCopy()
	take := func(name corev1.ResourceName, text string) error {
		have, ok := out[name]
		if !ok {
			return nil
		}
		q, err := quantityOrShare(text, capacity[name])
		if err != nil {
			return fmt.Errorf("reserved %s: %w", name, err)
		}
		if have.Sub(q); have.Sign() < 0 {
			have.Set(0)
		}
		out[name] = have
		return nil
	}
	for _, reserved := range []map[string]string{kube, system} {
		for name, text := range reserved {
			if err := take(corev1.ResourceName(name), text); err != nil {
				return nil, err
			}
		}
	}
	for signal, name := range map[string]corev1.ResourceName{"memory.available": corev1.ResourceMemory, "nodefs.available": corev1.ResourceEphemeralStorage} {
		if text, ok := evictionHard[signal]; ok {
			if err := take(name, text); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// reserveCPUs puts the CPUs that are named to be the node's own in the place of how many it was to keep.
func reserveCPUs(k *kubeletconfig.KubeletConfiguration) error {
	set, err := cpuset.Parse(k.ReservedSystemCPUs)
	if err != nil || set.IsEmpty() {
		return err
	}
	k.KubeReserved, k.SystemReserved = maps.Clone(k.KubeReserved), maps.Clone(k.SystemReserved)
	delete(k.KubeReserved, string(corev1.ResourceCPU))
	if k.SystemReserved == nil {
		k.SystemReserved = map[string]string{}
	}
	k.SystemReserved[string(corev1.ResourceCPU)] = strconv.Itoa(set.Size())
	return nil
}

// makeTopology builds what gives containers CPUs and memory of their own.
func (a *agent) makeTopology() error {
	capacity, reservation := a.node.Node().Status.Capacity, corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		q := capacity[name].DeepCopy()
		q.Sub(a.allocation[name])
		reservation[name] = q
	}
	machine, err := topology.ReadMachine(capacity.Memory().Value())
	if err != nil {
		return err
	}
	a.topology, err = topology.New(topology.Config{
		RootDir: a.cfg.RootDir, Machine: machine, Kubelet: &a.cfg.Kubelet, Reservation: reservation, Changed: func() { a.workers.PokeAll() },
	})
	return err
}

// quantityOrShare reads "100Mi" or "10%" of a capacity.
func quantityOrShare(text string, of resource.Quantity) (resource.Quantity, error) {
	var percent float64
	if n, err := fmt.Sscanf(text, "%f%%", &percent); n == 1 && err == nil && text[len(text)-1] == '%' {
		return *resource.NewQuantity(int64(float64(of.Value())*percent/100), of.Format), nil
	}
	return resource.ParseQuantity(text)
}

// swapFor is how much swap pods may use together, in bytes. Where the machine has some, the configuration must allow that.
func swapFor(k *kubeletconfig.KubeletConfiguration) (int64, error) {
	swap, err := nodestatus.Swap()
	switch {
	case err != nil:
		return 0, err
	case swap > 0 && *k.FailSwapOn:
		return 0, errors.New("the machine has swap, which only failSwapOn: false allows")
	}
	switch k.MemorySwap.SwapBehavior {
	case "", "NoSwap":
		return 0, nil
	case "LimitedSwap":
		return swap, nil
	}
	return 0, fmt.Errorf("memorySwap.swapBehavior %q is neither NoSwap nor LimitedSwap", k.MemorySwap.SwapBehavior)
}

// swapAccounting reports whether the kernel can limit the swap of a group.
func (a *agent) swapAccounting() bool {
	dir, ok := a.cgroups.RootDirectory("memory")
	if !ok || !a.cgroups.V2() {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, "memory.swap.max"))
	return err == nil
}
