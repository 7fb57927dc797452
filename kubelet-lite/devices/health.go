package devices

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// tell tells that there is news of a resource's devices.
func (m *Manager) tell(resource string) {
	m.cfg.Changed()
	var users []types.UID
	m.mu.Lock()
	for pod, grants := range m.state.Grants {
		if slices.ContainsFunc(grants, func(g *grant) bool { return g.Resource == resource }) {
			users = append(users, pod)
		}
	}
	m.mu.Unlock()
	for _, pod := range users {
		m.cfg.Affected(pod)
	}
}

// device needs the lock. It is nil if the plugin that has it is not there, or has it no more.
func (m *Manager) device(resource, id string) *pluginapi.Device {
	p := m.plugins[resource]
	if p == nil {
		return nil
	}
	at := slices.IndexFunc(p.devices, func(d *pluginapi.Device) bool { return d.ID == id })
	if at < 0 {
		return nil
	}
	return p.devices[at]
}

// Health is how the devices are that a container has (KEP-4680). Of a device that no plugin tells of, the last that is known is that it
// was healthy when it was given.
func (m *Manager) Health(pod *corev1.Pod, c *corev1.Container) (out []corev1.ResourceStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.state.Grants[pod.UID] {
		if g.Container != c.Name {
			continue
		}
		status := corev1.ResourceStatus{Name: corev1.ResourceName(g.Resource)}
		for _, id := range g.IDs {
			health := corev1.ResourceHealthStatusHealthy
			p := m.plugins[g.Resource]
			if d := m.device(g.Resource, id); p != nil && p.away || d != nil && d.Health != pluginapi.Healthy {
				health = corev1.ResourceHealthStatusUnhealthy
			}
			status.Resources = append(status.Resources, corev1.ResourceHealth{ResourceID: corev1.ResourceID(id), Health: health})
		}
		out = append(out, status)
	}
	slices.SortFunc(out, func(a, b corev1.ResourceStatus) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return out
}

// Held are the devices that a container has, as the pod-resources API tells of them.
func (m *Manager) Held(pod types.UID, container string) (out []*podresourcesapi.ContainerDevices) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.state.Grants[pod] {
		if g.Container == container {
			out = append(out, m.grouped(g.Resource, g.IDs)...)
		}
	}
	return out
}

// Allocatable are all healthy devices.
func (m *Manager) Allocatable() (out []*podresourcesapi.ContainerDevices) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range m.state.Resources {
		if p := m.plugins[name]; p != nil {
			out = append(out, m.grouped(name, p.healthy())...)
		}
	}
	return out
}

// grouped needs the lock. It puts devices together that are near the same NUMA nodes.
func (m *Manager) grouped(resource string, ids []string) (out []*podresourcesapi.ContainerDevices) {
	for _, id := range ids {
		var near *podresourcesapi.TopologyInfo
		if t := m.device(resource, id).GetTopology(); t != nil {
			near = &podresourcesapi.TopologyInfo{}
			for _, n := range t.Nodes {
				near.Nodes = append(near.Nodes, &podresourcesapi.NUMANode{ID: n.ID})
			}
		}
		at := slices.IndexFunc(out, func(d *podresourcesapi.ContainerDevices) bool { return proto.Equal(d.Topology, near) })
		if at < 0 {
			out = append(out, &podresourcesapi.ContainerDevices{ResourceName: resource, Topology: near})
			at = len(out) - 1
		}
		out[at].DeviceIds = append(out[at].DeviceIds, id)
	}
	return out
}
