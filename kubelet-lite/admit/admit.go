// Package admit decides whether a pod that was bound to this node may run on it. It is pure. The scheduler has asked the same, but
// with older knowledge, and static pods never met it.
package admit

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"keelson.dev/kubelet-lite/cgroups"
)

// Rejection is why a pod fails.
type Rejection struct{ Reason, Message string }

// Input is what the decision rests on.
type Input struct {
	Pod      *corev1.Pod
	Static   bool
	Node     *corev1.Node
	Active   []*corev1.Pod // the others that hold resources of the node, with what they were granted in their specs
	AppArmor bool          // the kernel enforces it
	// UnsafeSysctls are allowed beyond the safe ones; a trailing * matches any rest.
	UnsafeSysctls []string
	// Pressure reports whether a condition of the node holds; nil: none does.
	Pressure func(corev1.NodeConditionType) bool
}

// otherChecks are all but Fits.
var otherChecks = []func(Input) *Rejection{pressure, sysctls, appArmor, affinity, ports, taints}

// Check returns nil if the pod may run.
func Check(in Input) *Rejection {
	return first(in, slices.Concat(otherChecks[:3], []func(Input) *Rejection{Fits}, otherChecks[3:]))
}

func first(in Input, checks []func(Input) *Rejection) *Rejection {
	for _, check := range checks {
		if r := check(in); r != nil {
			return r
		}
	}
	return nil
}

// Critical reports whether a pod is one of the node's own or one that the cluster cannot do without: the node takes it at others' cost,
// and under any pressure.
func Critical(pod *corev1.Pod, static bool) bool {
	return static || cgroups.HasPriority(pod, cgroups.CriticalPriority)
}

// pressure keeps new pods away from a node that is short of something: only those that cannot make memory scarcer, because they
// asked for theirs or tolerate it, come in under memory pressure.
func pressure(in Input) *Rejection {
	if in.Pressure == nil || Critical(in.Pod, in.Static) {
		return nil
	}
	for _, c := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		if !in.Pressure(c) || c == corev1.NodeMemoryPressure && (cgroups.QoS(in.Pod) != corev1.PodQOSBestEffort || toleratesMemoryPressure(in.Pod)) {
			continue
		}
		return &Rejection{"Evicted", fmt.Sprintf("The node had condition: [%s]. ", c)}
	}
	return nil
}

func toleratesMemoryPressure(pod *corev1.Pod) bool {
	taint := &corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
	return corev1helpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, taint, true)
}

// Feasible reports whether an empty node could take the pod; its message is that of an infeasible resize.
func Feasible(pod *corev1.Pod, node *corev1.Node) (bool, string) {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		want, capacity := requests[name], node.Status.Allocatable[name]
		if want.Cmp(capacity) <= 0 {
			continue
		}
		if name == corev1.ResourceCPU {
			return false, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, want.MilliValue(), capacity.MilliValue())
		}
		return false, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, want.Value(), capacity.Value())
	}
	return true, ""
}

// Fits checks only the resources, in a fixed order, so that one pod always gets one reason.
func Fits(in Input) *Rejection {
	for _, s := range shortages(in) {
		return &Rejection{"OutOf" + string(s.name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", s.name, s.requested, s.used, s.capacity)}
	}
	return nil
}

// shortage is a resource of which there is not enough, in whole units, of CPU in thousandths.
type shortage struct {
	name                      corev1.ResourceName
	requested, used, capacity int64
}

// shortages are what the node lacks for the pod.
func shortages(in Input) (out []shortage) {
	if most := in.Node.Status.Allocatable.Pods().Value(); int64(len(in.Active)) >= most {
		out = append(out, shortage{corev1.ResourcePods, 1, int64(len(in.Active)), most})
	}
	requests := resourcehelper.PodRequests(in.Pod, resourcehelper.PodResourcesOptions{})
	used := corev1.ResourceList{}
	for _, p := range in.Active {
		for name, q := range resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		want, have, capacity := requests[name], used[name], in.Node.Status.Allocatable[name]
		total := have.DeepCopy()
		total.Add(want)
		if want.IsZero() || total.Cmp(capacity) <= 0 || FromClaim(in.Pod, name) {
			continue
		}
		if _, offered := in.Node.Status.Allocatable[name]; !offered && IsExtended(name) {
			continue // a device plugin that has not registered again yet must not fail the pods that use it
		}
		out = append(out, shortage{name, unit(name, want), unit(name, have), unit(name, capacity)})
	}
	return out
}

func unit(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// FromClaim reports whether a claim gives the pod an extended resource, in place of a device plugin: on one node it is always one or
// the other.
func FromClaim(pod *corev1.Pod, name corev1.ResourceName) bool {
	s := pod.Status.ExtendedResourceClaimStatus
	return s != nil && slices.ContainsFunc(s.RequestMappings, func(m corev1.ContainerExtendedResourceRequest) bool { return m.ResourceName == string(name) })
}

// IsExtended reports whether a resource is one that a device plugin may offer.
func IsExtended(name corev1.ResourceName) bool {
	return strings.Contains(string(name), "/") && !strings.Contains(string(name), "kubernetes.io/")
}

func affinity(in Input) *Rejection {
	if in.Static {
		return nil
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(in.Pod).Match(in.Node); !ok || err != nil {
		return &Rejection{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	return nil
}

func ports(in Input) *Rejection {
	taken := map[string]bool{}
	for _, p := range in.Active {
		for _, port := range hostPorts(p) {
			taken[key(port)] = true
			taken[wildcard(port)] = taken[wildcard(port)] || port.HostIP == "" || port.HostIP == "0.0.0.0"
			taken["any/"+wildcard(port)] = true
		}
	}
	for _, port := range hostPorts(in.Pod) {
		everywhere := port.HostIP == "" || port.HostIP == "0.0.0.0"
		if taken[key(port)] || taken[wildcard(port)] || everywhere && taken["any/"+wildcard(port)] {
			return &Rejection{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
		}
	}
	return nil
}

func key(p corev1.ContainerPort) string {
	return fmt.Sprintf("%s/%s/%d", p.HostIP, p.Protocol, p.HostPort)
}

func wildcard(p corev1.ContainerPort) string { return fmt.Sprintf("*/%s/%d", p.Protocol, p.HostPort) }

func hostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.HostPort > 0 {
				out = append(out, p)
			}
		}
	}
	return out
}

// taints: only NoExecute ones drive out what is already bound. Static pods belong to the node and tolerate all.
func taints(in Input) *Rejection {
	if in.Static {
		return nil
	}
	taint, found := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), in.Node.Spec.Taints, in.Pod.Spec.Tolerations,
		func(t *corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute }, true)
	if found {
		return &Rejection{"TaintToleration", fmt.Sprintf("Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate: {%s: %s}", taint.Key, taint.Value)}
	}
	return nil
}

func appArmor(in Input) *Rejection {
	if in.AppArmor {
		return nil
	}
	confined := func(p *corev1.AppArmorProfile) bool {
		return p != nil && p.Type != corev1.AppArmorProfileTypeUnconfined
	}
	found := in.Pod.Spec.SecurityContext != nil && confined(in.Pod.Spec.SecurityContext.AppArmorProfile)
	for _, c := range slices.Concat(in.Pod.Spec.InitContainers, in.Pod.Spec.Containers) {
		found = found || c.SecurityContext != nil && confined(c.SecurityContext.AppArmorProfile)
	}
	if found {
		return &Rejection{"AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"}
	}
	return nil
}
