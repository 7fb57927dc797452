package queue

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
)

// Nominator knows which pending pods wait for room on which node, made for them by preemption. It implements fwk.PodNominator.
type Nominator struct {
	mu     sync.RWMutex
	byNode map[string][]fwk.PodInfo
	nodeOf map[types.UID]string
}

var _ fwk.PodNominator = &Nominator{}

func newNominator() *Nominator {
	return &Nominator{byNode: map[string][]fwk.PodInfo{}, nodeOf: map[types.UID]string{}}
}

// AddNominatedPod implements fwk.PodNominator.
func (n *Nominator) AddNominatedPod(_ klog.Logger, info fwk.PodInfo, nominating *fwk.NominatingInfo) {
	n.add(info, nominating)
}

// DeleteNominatedPodIfExists implements fwk.PodNominator.
func (n *Nominator) DeleteNominatedPodIfExists(pod *corev1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.remove(pod.UID)
}

// UpdateNominatedPod implements fwk.PodNominator.
func (n *Nominator) UpdateNominatedPod(_ klog.Logger, old *corev1.Pod, info fwk.PodInfo) {
	n.update(old, info)
}

// NominatedPodsForNode implements fwk.PodNominator.
func (n *Nominator) NominatedPodsForNode(node string) []fwk.PodInfo {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return slices.Clone(n.byNode[node])
}

// NodesBefore returns the nodes that other pods of the same or a higher priority wait for.
func (n *Nominator) NodesBefore(pod *corev1.Pod) []string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	var out []string
	for node, infos := range n.byNode {
		if slices.ContainsFunc(infos, func(i fwk.PodInfo) bool {
			return i.GetPod().UID != pod.UID && corev1helpers.PodPriority(i.GetPod()) >= corev1helpers.PodPriority(pod)
		}) {
			out = append(out, node)
		}
	}
	return out
}

// NodeOf returns the node that a pod is nominated for, or "".
func (n *Nominator) NodeOf(uid types.UID) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.nodeOf[uid]
}

// add records the nomination in nominating if it overrides, else the one in memory, else the one in the pod's status.
func (n *Nominator) add(info fwk.PodInfo, nominating *fwk.NominatingInfo) {
	n.mu.Lock()
	defer n.mu.Unlock()
	pod := info.GetPod()
	node := pod.Status.NominatedNodeName
	if nominating.Mode() == fwk.ModeOverride {
		node = nominating.NominatedNodeName
	} else if current := n.nodeOf[pod.UID]; current != "" {
		node = current
	}
	n.remove(pod.UID)
	if node != "" && pod.Spec.NodeName == "" {
		n.nodeOf[pod.UID] = node
		n.byNode[node] = append(n.byNode[node], info)
	}
}

// update keeps a nomination that is only in memory yet: the status of the newer pod may not show it.
func (n *Nominator) update(old *corev1.Pod, info fwk.PodInfo) {
	var keep *fwk.NominatingInfo
	pod := info.GetPod()
	if old.Status.NominatedNodeName != pod.Status.NominatedNodeName {
		keep = &fwk.NominatingInfo{NominatingMode: fwk.ModeOverride, NominatedNodeName: pod.Status.NominatedNodeName}
	}
	n.add(info, keep)
}

func (n *Nominator) remove(uid types.UID) {
	node, ok := n.nodeOf[uid]
	if !ok {
		return
	}
	delete(n.nodeOf, uid)
	n.byNode[node] = slices.DeleteFunc(n.byNode[node], func(p fwk.PodInfo) bool { return p.GetPod().UID == uid })
	if len(n.byNode[node]) == 0 {
		delete(n.byNode, node)
	}
}
