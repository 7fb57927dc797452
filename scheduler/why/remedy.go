package why

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Facts are what a remedy is worked out from.
type Facts struct {
	Pod *corev1.Pod
	// Asks and Free are, for a resource, what the pod requests and the most that is free on one node.
	Asks, Free func(resource string) string
}

// rule explains the refusals of one plugin whose reason has a certain beginning.
type rule struct {
	plugin, prefix string // no plugin: any
	plain          string // why, after "on 2 of 3 nodes"
	remedy         string
}

// rules are in the order in which they are tried. %s stands for what follows the prefix.
var rules = []rule{
	{"", "persistentvolumeclaim ", "the pod's claim %s", "create the claim"}, // several plugins look at volumes
	{"NodeResourcesFit", "Too many pods", "there is no room for one more pod", "raise the kubelet's maxPods, remove pods or add a node"},
	{"NodeResourcesFit", "Insufficient ", "too little %s is free", ""},
	{"NodeUnschedulable", "", "the node is cordoned", "kubectl uncordon the node, or tolerate node.kubernetes.io/unschedulable"},
	{"TaintToleration", "", "the node has a taint that the pod does not tolerate", "remove the taint, or add a toleration to the pod"},
	{"NodeAffinity", "", "the node's labels are not those that the pod asks for by node selector or affinity", "label a node so, or change the pod's nodeSelector or nodeAffinity"},
	{"NodeName", "", "the pod names another node", "change spec.nodeName"},
	{"NodePorts", "", "another pod has the host port that the pod asks for", "free the port, choose another hostPort, or add a node"},
	{"InterPodAffinity", "node(s) didn't match pod affinity rules", "no pod that this one wants to be near is there", "start a pod with those labels there, or change the podAffinity"},
	{"InterPodAffinity", "node(s) didn't match pod anti-affinity rules", "there is a pod that this one wants to be away from", "add a node, or change the podAntiAffinity"},
	{"InterPodAffinity", "node(s) didn't satisfy existing pods anti-affinity rules", "there is a pod that wants to be away from this one", "add a node, or change that pod's podAntiAffinity"},
	{"PodTopologySpread", "node(s) didn't match pod topology spread constraints (missing required label)", "the node has no label for the pod's topology spread", "give the node the topology label"},
	{"PodTopologySpread", "", "the pods would be spread too unevenly", "make room in the other domains, or raise maxSkew"},
	{"VolumeBinding", "pod has unbound immediate PersistentVolumeClaims", "a claim of the pod has no volume yet", "create a volume that matches, or fix the claim's storage class or its provisioner"},
	{"VolumeBinding", "node(s) had volume node affinity conflict", "the pod's volume cannot be reached from there", "make room on the nodes that the volume's nodeAffinity names"},
	{"VolumeBinding", "node(s) didn't match PersistentVolume's node affinity", "the pod's volume cannot be reached from there", "make room on the nodes that the volume's nodeAffinity names"},
	{"VolumeBinding", "node(s) didn't find available persistent volumes to bind", "no volume for the pod's claim is available there", "create a volume that matches the claim"},
	{"VolumeBinding", "", "the pod's volumes cannot be bound there (%s)", "look at the claims: kubectl describe pvc"},
	{"VolumeZone", "", "the pod's volume is in another zone", "make room in the volume's zone"},
	{"VolumeRestrictions", "", "another pod uses the pod's volume", "end that pod, or use another volume"},
	{"NodeVolumeLimits", "", "the node has as many volumes as it can have", "add a node, or remove pods with volumes"},
	{"DynamicResources", "resourceclaim.resource.k8s.io ", "the pod's resource claim %s", "create the ResourceClaim, or name another"},
	{"DynamicResources", "request ", "of the claimed devices, request %s", "create the DeviceClass, or change the claim"},
	{"DynamicResources", "cannot allocate all claims", "no device that the pod's resource claim asks for is free", "free a device, add a node that has one, or change the claim"},
	{"DynamicResources", "", "the devices that the pod claims cannot be had there (%s)", "look at the claims: kubectl describe resourceclaim"},
}

func match(r Reason) (rule, string, bool) {
	for _, rule := range rules {
		if rest, ok := strings.CutPrefix(r.Reason, rule.prefix); ok && (rule.plugin == "" || rule.plugin == r.Plugin) {
			return rule, rest, true
		}
	}
	return rule{}, "", false
}

// plain words a reason; the reason itself where no rule knows better.
func plain(r Reason) string {
	rule, rest, ok := match(r)
	if !ok {
		return r.Reason
	}
	text := strings.Replace(rule.plain, "%s", rest, 1)
	if r.Plugin == "NodeResourcesFit" && r.Remedy != "" {
		before, _, _ := strings.Cut(r.Remedy, ": ")
		text += " (" + before + ")"
	}
	return text
}

// Remedy says what would have to change for the refused nodes to take the pod.
func Remedy(r Reason, f Facts) string {
	rule, rest, ok := match(r)
	switch {
	case !ok:
		return ""
	case rule.prefix == "Insufficient ":
		return fmt.Sprintf("the pod asks for %s, the most that is free on one node is %s: ask for less, remove pods, or add a node", f.Asks(rest), f.Free(rest))
	}
	return rule.remedy
}
