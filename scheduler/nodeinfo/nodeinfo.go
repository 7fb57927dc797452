// Package nodeinfo holds what the scheduler knows about one node: the Node, the pods on it or on their way to it, and the sums
// that filters and scores need, kept up to date by deltas.
package nodeinfo

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	ndf "k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
)

// NodeInfo implements fwk.NodeInfo. It is not safe for concurrent writes: the cache guards its copies, a snapshot's are read-only
// and preemption works on clones.
type NodeInfo struct {
	node *corev1.Node

	pods             []fwk.PodInfo
	withAffinity     []fwk.PodInfo
	withAntiAffinity []fwk.PodInfo

	usedPorts   fwk.HostPortInfo
	pvcRefs     map[string]int
	requested   Resource
	nonZero     Resource
	allocatable Resource
	images      map[string]*fwk.ImageStateSummary
	features    ndf.FeatureSet
	generation  int64
}

var _ fwk.NodeInfo = &NodeInfo{}

// New returns a NodeInfo that holds the given pods and no Node.
func New(pods ...*corev1.Pod) *NodeInfo {
	n := &NodeInfo{usedPorts: fwk.HostPortInfo{}, pvcRefs: map[string]int{}}
	for _, pod := range pods {
		info, _ := NewPodInfo(pod) // what did not parse is left out, as documented
		n.AddPodInfo(info)
	}
	return n
}

// Node implements fwk.NodeInfo.
func (n *NodeInfo) Node() *corev1.Node {
	if n == nil {
		return nil
	}
	return n.node
}

// GetPods implements fwk.NodeInfo.
func (n *NodeInfo) GetPods() []fwk.PodInfo { return n.pods }

// GetPodsWithAffinity implements fwk.NodeInfo.
func (n *NodeInfo) GetPodsWithAffinity() []fwk.PodInfo { return n.withAffinity }

// GetPodsWithRequiredAntiAffinity implements fwk.NodeInfo.
func (n *NodeInfo) GetPodsWithRequiredAntiAffinity() []fwk.PodInfo { return n.withAntiAffinity }

// GetPodsWithRequiredNonHostScopedAntiAffinity implements fwk.NodeInfo. It is empty, as the framework asks of an implementation
// without the host-name fast path.
func (n *NodeInfo) GetPodsWithRequiredNonHostScopedAntiAffinity() []fwk.PodInfo { return nil }

// GetUsedPorts implements fwk.NodeInfo.
func (n *NodeInfo) GetUsedPorts() fwk.HostPortInfo { return n.usedPorts }

// GetRequested implements fwk.NodeInfo.
func (n *NodeInfo) GetRequested() fwk.Resource { return &n.requested }

// GetNonZeroRequested implements fwk.NodeInfo.
func (n *NodeInfo) GetNonZeroRequested() fwk.Resource { return &n.nonZero }

// GetAllocatable implements fwk.NodeInfo.
func (n *NodeInfo) GetAllocatable() fwk.Resource { return &n.allocatable }

// GetImageStates implements fwk.NodeInfo.
func (n *NodeInfo) GetImageStates() map[string]*fwk.ImageStateSummary { return n.images }

// GetPVCRefCounts implements fwk.NodeInfo.
func (n *NodeInfo) GetPVCRefCounts() map[string]int { return n.pvcRefs }

// GetGeneration implements fwk.NodeInfo: it grows with every change.
func (n *NodeInfo) GetGeneration() int64 { return n.generation }

// GetNodeDeclaredFeatures implements fwk.NodeInfo.
func (n *NodeInfo) GetNodeDeclaredFeatures() ndf.FeatureSet { return n.features }

// String implements fwk.NodeInfo.
func (n *NodeInfo) String() string {
	names := make([]string, len(n.pods))
	for i, p := range n.pods {
		names[i] = p.GetPod().Name
	}
	return fmt.Sprintf("&NodeInfo{Pods:%v, RequestedResource:%+v, NonZeroRequest:%+v, UsedPort:%v, AllocatableResource:%+v}",
		names, n.requested, n.nonZero, n.usedPorts, n.allocatable)
}

// Snapshot implements fwk.NodeInfo.
func (n *NodeInfo) Snapshot() fwk.NodeInfo { return n.Clone() }

// Clone copies everything that AddPodInfo and RemovePod change.
func (n *NodeInfo) Clone() *NodeInfo {
	out := *n
	out.pods = slices.Clone(n.pods)
	out.withAffinity = slices.Clone(n.withAffinity)
	out.withAntiAffinity = slices.Clone(n.withAntiAffinity)
	out.requested, out.nonZero = n.requested.clone(), n.nonZero.clone()
	out.pvcRefs = maps.Clone(n.pvcRefs)
	out.usedPorts = make(fwk.HostPortInfo, len(n.usedPorts))
	for ip, ports := range n.usedPorts {
		out.usedPorts[ip] = maps.Clone(ports)
	}
	return &out // the images are replaced, never changed
}

// SetNode implements fwk.NodeInfo.
func (n *NodeInfo) SetNode(node *corev1.Node) {
	n.node = node
	n.allocatable = NewResource(node.Status.Allocatable)
	n.features = ndf.DefaultFramework.TryMap(node.Status.DeclaredFeatures)
	n.generation++
}

// RemoveNode forgets the Node and keeps the pods, whose deletion may be seen later.
func (n *NodeInfo) RemoveNode() {
	n.node = nil
	n.allocatable = Resource{}
	n.images = nil
	n.generation++
}

// SetImages replaces the images that the node holds; the summaries are shared with the other nodes that hold them.
func (n *NodeInfo) SetImages(images map[string]*fwk.ImageStateSummary) {
	n.images = images
	n.generation++
}

// AddPodInfo implements fwk.NodeInfo.
func (n *NodeInfo) AddPodInfo(info fwk.PodInfo) {
	n.pods = append(n.pods, info)
	if hasAffinity(info) {
		n.withAffinity = append(n.withAffinity, info)
	}
	if hasRequiredAntiAffinity(info) {
		n.withAntiAffinity = append(n.withAntiAffinity, info)
	}
	n.count(info, 1)
}

// RemovePod implements fwk.NodeInfo.
func (n *NodeInfo) RemovePod(_ klog.Logger, pod *corev1.Pod) error {
	same := func(p fwk.PodInfo) bool { return p.GetPod().UID == pod.UID }
	i := slices.IndexFunc(n.pods, same)
	if i < 0 {
		return fmt.Errorf("pod %s is not on the node", klog.KObj(pod))
	}
	info := n.pods[i]
	n.pods = slices.Delete(n.pods, i, i+1)
	if hasAffinity(info) {
		n.withAffinity = slices.DeleteFunc(n.withAffinity, same)
	}
	if hasRequiredAntiAffinity(info) {
		n.withAntiAffinity = slices.DeleteFunc(n.withAntiAffinity, same)
	}
	n.count(info, -1)
	return nil
}

// ReplacePod puts a newer version of a pod into the place of an older one from which it differs in nothing that is counted.
func (n *NodeInfo) ReplacePod(info fwk.PodInfo) {
	for _, list := range [][]fwk.PodInfo{n.pods, n.withAffinity, n.withAntiAffinity} {
		if i := slices.IndexFunc(list, func(p fwk.PodInfo) bool { return p.GetPod().UID == info.GetPod().UID }); i >= 0 {
			list[i] = info
		}
	}
}

// held returns the host ports and claims of a pod.
func held(info fwk.PodInfo) ([]corev1.ContainerPort, []string) {
	if p, ok := info.(*PodInfo); ok {
		return p.ports, p.claims
	}
	return HostPorts(info.GetPod()), ClaimKeys(info.GetPod())
}

// count adds (sign 1) or removes (sign -1) a pod's part of the sums.
func (n *NodeInfo) count(info fwk.PodInfo, sign int64) {
	n.generation++
	res := info.CalculateResource()
	n.requested.add(res.Resource, sign)
	n.nonZero.MilliCPU += sign * res.Non0CPU
	n.nonZero.Memory += sign * res.Non0Mem
	ports, claims := held(info)
	for _, port := range ports {
		if sign > 0 {
			n.usedPorts.Add(port.HostIP, string(port.Protocol), port.HostPort)
			continue
		}
		n.usedPorts.Remove(port.HostIP, string(port.Protocol), port.HostPort)
	}
	for _, key := range claims {
		n.pvcRefs[key] += int(sign)
		if n.pvcRefs[key] <= 0 {
			delete(n.pvcRefs, key)
		}
	}
}

// HostPorts lists the host ports that a pod holds while it runs: those of its containers and of its sidecars.
func HostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	collect := func(c *corev1.Container) {
		for _, port := range c.Ports {
			if port.HostPort > 0 {
				ports = append(ports, port)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			collect(c)
		}
	}
	for i := range pod.Spec.Containers {
		collect(&pod.Spec.Containers[i])
	}
	return ports
}

// ClaimKeys lists the namespace/name of the PersistentVolumeClaims that a pod mounts, generic ephemeral ones included.
func ClaimKeys(pod *corev1.Pod) []string {
	var keys []string
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			keys = append(keys, pod.Namespace+"/"+v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			keys = append(keys, pod.Namespace+"/"+pod.Name+"-"+v.Name)
		}
	}
	return keys
}
