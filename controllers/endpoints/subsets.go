package endpoints

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/endpointslice/util"
	utilnet "k8s.io/utils/net"

	"keelson.dev/internal/podstate"
)

// maxAddresses is the most addresses of an Endpoints object; more would make it too large to store.
const maxAddresses = 1000

// subsets groups the pods' addresses by the set of ports that they serve, in the canonical order that stored objects have.
func subsets(svc *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	groups := map[string]*corev1.EndpointSubset{}
	for _, pod := range pods {
		if !util.ShouldPodBeInEndpoints(pod, svc.Spec.PublishNotReadyAddresses) {
			continue
		}
		address, ok := addressOf(svc, pod)
		if !ok {
			continue
		}
		ports, ok := portsOf(svc, pod)
		if !ok {
			continue
		}
		key := fmt.Sprint(ports)
		if groups[key] == nil {
			groups[key] = &corev1.EndpointSubset{Ports: ports}
		}
		if podstate.Ready(pod) || svc.Spec.PublishNotReadyAddresses {
			groups[key].Addresses = append(groups[key].Addresses, address)
		} else {
			groups[key].NotReadyAddresses = append(groups[key].NotReadyAddresses, address)
		}
	}
	return sorted(groups)
}

func sorted(groups map[string]*corev1.EndpointSubset) []corev1.EndpointSubset {
	byIP := func(a, b corev1.EndpointAddress) int {
		return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(uidOf(a), uidOf(b)))
	}
	out := make([]corev1.EndpointSubset, 0, len(groups))
	for _, subset := range groups {
		slices.SortFunc(subset.Addresses, byIP)
		slices.SortFunc(subset.NotReadyAddresses, byIP)
		out = append(out, *subset)
	}
	slices.SortFunc(out, func(a, b corev1.EndpointSubset) int { return cmp.Compare(fmt.Sprint(a.Ports), fmt.Sprint(b.Ports)) })
	return out
}

func uidOf(a corev1.EndpointAddress) types.UID {
	if a.TargetRef == nil {
		return ""
	}
	return a.TargetRef.UID
}

// addressOf returns the pod's address of the Service's first IP family.
func addressOf(svc *corev1.Service, pod *corev1.Pod) (corev1.EndpointAddress, bool) {
	ipv6 := len(svc.Spec.IPFamilies) > 0 && svc.Spec.IPFamilies[0] == corev1.IPv6Protocol
	if len(svc.Spec.IPFamilies) == 0 {
		ipv6 = utilnet.IsIPv6String(svc.Spec.ClusterIP)
	}
	for _, ip := range pod.Status.PodIPs {
		if utilnet.IsIPv6String(ip.IP) != ipv6 {
			continue
		}
		address := corev1.EndpointAddress{
			IP:        ip.IP,
			NodeName:  &pod.Spec.NodeName,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		}
		if util.ShouldSetHostname(pod, svc) {
			address.Hostname = pod.Spec.Hostname
		}
		return address, true
	}
	return corev1.EndpointAddress{}, false
}

// portsOf resolves the Service's ports on a pod; false if it serves none of them. A headless Service may have no ports at all.
func portsOf(svc *corev1.Service, pod *corev1.Pod) ([]corev1.EndpointPort, bool) {
	if len(svc.Spec.Ports) == 0 {
		return nil, svc.Spec.ClusterIP == corev1.ClusterIPNone
	}
	var ports []corev1.EndpointPort
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		number, ok := resolve(pod, port)
		if !ok {
			continue
		}
		ports = append(ports, corev1.EndpointPort{Name: port.Name, Port: number, Protocol: port.Protocol, AppProtocol: port.AppProtocol})
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return ports, len(ports) > 0
}

// resolve finds the number of a target port, by name among the containers' ports if need be.
func resolve(pod *corev1.Pod, port *corev1.ServicePort) (int32, bool) {
	if port.TargetPort.Type == intstr.Int {
		return port.TargetPort.IntVal, true
	}
	containers := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, p := range c.Ports {
			if p.Name == port.TargetPort.StrVal && p.Protocol == port.Protocol {
				return p.ContainerPort, true
			}
		}
	}
	return 0, false
}

// truncate cuts the addresses down to what fits, those that are not ready first, and reports whether it had to.
func truncate(subsets []corev1.EndpointSubset) bool {
	ready, all := 0, 0
	for _, s := range subsets {
		ready += len(s.Addresses)
		all += len(s.Addresses) + len(s.NotReadyAddresses)
	}
	if all <= maxAddresses {
		return false
	}
	readyLeft, otherLeft := min(ready, maxAddresses), max(0, maxAddresses-ready)
	for i := range subsets {
		s := &subsets[i]
		s.Addresses = s.Addresses[:min(len(s.Addresses), readyLeft)]
		s.NotReadyAddresses = s.NotReadyAddresses[:min(len(s.NotReadyAddresses), otherLeft)]
		readyLeft -= len(s.Addresses)
		otherLeft -= len(s.NotReadyAddresses)
	}
	return true
}

// withoutVersions drops the resource versions of pods, which older writers recorded.
func withoutVersions(subsets []corev1.EndpointSubset) []corev1.EndpointSubset {
	out := make([]corev1.EndpointSubset, 0, len(subsets))
	for i := range subsets {
		s := subsets[i].DeepCopy()
		for _, list := range [][]corev1.EndpointAddress{s.Addresses, s.NotReadyAddresses} {
			for j := range list {
				if list[j].TargetRef != nil {
					list[j].TargetRef.ResourceVersion = ""
				}
			}
		}
		out = append(out, *s)
	}
	return out
}
