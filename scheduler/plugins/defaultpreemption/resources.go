package defaultpreemption

import (
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
)

// ByResources stands in the state of a pod to which, besides the nodes themselves, only CPU, memory, ephemeral storage and the number
// of pods matter: then who must go follows from sums, and no filter needs to be asked.
const ByResources fwk.StateKey = Name + "/ByResources"

// Marker is what stands there.
type Marker struct{}

// Clone implements fwk.StateData.
func (m Marker) Clone() fwk.StateData { return m }

// room is what is free on a node, or needed: milli-CPUs, bytes, bytes and pods.
type room [4]int64

func roomOf(r fwk.Resource, pods int64) room {
	return room{r.GetMilliCPU(), r.GetMemory(), r.GetEphemeralStorage(), pods}
}

func (r room) plus(other room, sign int64) room {
	for i := range r {
		r[i] += sign * other[i]
	}
	return r
}

// holds says whether need fits; what is not needed may be overdrawn.
func (r room) holds(need room) bool {
	for i := range r {
		if need[i] > 0 && need[i] > r[i] {
			return false
		}
	}
	return true
}

// byResources looks for nodes on which evictions help, until it has enough of them. It leaves to others the nodes where more than sums
// count: those that are kept for other pods, those refused for another reason, and those where evictions do not help.
func (p *Plugin) byResources(pod *corev1.Pod, nodes []fwk.NodeInfo, enough int, budgets []*policyv1.PodDisruptionBudget, statuses fwk.NodeToStatusReader,
) (candidates []candidate, rest []fwk.NodeInfo) {
	request := nodeinfo.NewResource(nodeinfo.PodRequests(pod))
	need := roomOf(&request, 1)
	for i, node := range nodes {
		if suffices(candidates, enough) {
			return candidates, append(rest, nodes[i:]...)
		}
		name := node.Node().Name
		if statuses.Get(name).Plugin() != "NodeResourcesFit" || len(p.handle.NominatedPodsForNode(name)) > 0 {
			rest = append(rest, node)
			continue
		}
		var lower []fwk.PodInfo
		free := roomOf(node.GetAllocatable(), int64(node.GetAllocatable().GetAllowedPodNumber()-len(node.GetPods())))
		free = free.plus(roomOf(node.GetRequested(), 0), -1)
		for _, info := range node.GetPods() {
			if priority(info.GetPod()) < priority(pod) {
				lower = append(lower, info)
				free = free.plus(roomOf(info.CalculateResource().Resource, 1), 1)
			}
		}
		if !free.holds(need) {
			rest = append(rest, node)
			continue
		}
		c := candidate{node: name}
		violating, others := splitByBudgets(lower, budgets)
		for i, info := range append(violating, others...) {
			if left := free.plus(roomOf(info.CalculateResource().Resource, 1), -1); left.holds(need) {
				free = left // it can stay
				continue
			}
			c.victims = append(c.victims, info.GetPod())
			if i < len(violating) {
				c.violations++
			}
		}
		candidates = append(candidates, c)
	}
	return candidates, rest
}
