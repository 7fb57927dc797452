package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
)

// prepareService lets clients leave out what was allocated and what follows from something else: old clients know only the
// singular clusterIP, and somebody who changes the type should not have to clear the fields of the former type.
func prepareService(s, old *corev1.Service) {
	if s.Spec.Type == corev1.ServiceTypeExternalName && len(validateInternalPolicy(&s.Spec, nil)) == 0 {
		s.Spec.InternalTrafficPolicy = nil
	}
	if old == nil {
		if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
		return
	}
	keepAllocated(&s.Spec, &old.Spec)
	syncClusterIPs(&s.Spec, &old.Spec)
	dropFormerTypeFields(&s.Spec, &old.Spec)
	downgradeDualStack(&s.Spec, &old.Spec)
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

// keepAllocated fills in allocated values that an update left out.
func keepAllocated(spec, old *corev1.ServiceSpec) {
	if mayHaveClusterIP(spec) && mayHaveClusterIP(old) {
		resource.SetDefault(&spec.ClusterIP, old.ClusterIP)
		if len(spec.ClusterIPs) == 0 && spec.ClusterIP == old.ClusterIP {
			spec.ClusterIPs = old.ClusterIPs
		}
	}
	if hasNodePorts(spec) && hasNodePorts(old) {
		keepNodePorts(spec.Ports, old.Ports)
	}
	if hasHealthCheckPort(spec) && hasHealthCheckPort(old) {
		resource.SetDefault(&spec.HealthCheckNodePort, old.HealthCheckNodePort)
	}
}

// keepNodePorts matches ports by name; a node port that another port of the new object names already is not given twice.
func keepNodePorts(ports, old []corev1.ServicePort) {
	byName := map[string]int32{}
	for _, port := range old {
		byName[port.Name] = port.NodePort
	}
	used := nodePorts(ports).Intersection(nodePorts(old))
	for i := range ports {
		former := byName[ports[i].Name]
		if ports[i].NodePort == 0 && former != 0 && !used.Has(former) {
			ports[i].NodePort = former
			used.Insert(former)
		}
	}
}

func nodePorts(ports []corev1.ServicePort) sets.Set[int32] {
	used := sets.New[int32]()
	for _, port := range ports {
		if port.NodePort != 0 {
			used.Insert(port.NodePort)
		}
	}
	return used
}

// syncClusterIPs follows a client that changed only one of clusterIP and clusterIPs.
func syncClusterIPs(spec, old *corev1.ServiceSpec) {
	if spec.ClusterIP == old.ClusterIP {
		if len(spec.ClusterIPs) == 0 {
			spec.ClusterIPs = old.ClusterIPs
		}
		return
	}
	if !slices.Equal(spec.ClusterIPs, old.ClusterIPs) {
		return // both were changed: validation compares them
	}
	spec.ClusterIPs = nil
	if spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

// dropFormerTypeFields clears what only made sense for the old type, as long as the client left it as it was.
func dropFormerTypeFields(spec, old *corev1.ServiceSpec) {
	if mayHaveClusterIP(old) && !mayHaveClusterIP(spec) {
		if spec.ClusterIP == old.ClusterIP && slices.Equal(spec.ClusterIPs, old.ClusterIPs) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(spec.IPFamilies, old.IPFamilies) {
			spec.IPFamilies = nil
		}
		clearIfSame(&spec.IPFamilyPolicy, old.IPFamilyPolicy)
	}
	if hasNodePorts(old) && !hasNodePorts(spec) && nodePorts(spec.Ports).Equal(nodePorts(old.Ports)) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if hasHealthCheckPort(old) && !hasHealthCheckPort(spec) && spec.HealthCheckNodePort == old.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if old.Type == corev1.ServiceTypeLoadBalancer && spec.Type != corev1.ServiceTypeLoadBalancer {
		clearIfSame(&spec.AllocateLoadBalancerNodePorts, old.AllocateLoadBalancerNodePorts)
		clearIfSame(&spec.LoadBalancerClass, old.LoadBalancerClass)
	}
	if externallyAccessible(old) && !externallyAccessible(spec) && spec.ExternalTrafficPolicy == old.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
	if mayHaveClusterIP(old) && !mayHaveClusterIP(spec) {
		clearIfSame(&spec.InternalTrafficPolicy, old.InternalTrafficPolicy)
	}
}

func clearIfSame[T comparable](field **T, old *T) {
	if ptr.Equal(*field, old) {
		*field = nil
	}
}

// downgradeDualStack drops the second address and family of a service whose policy became SingleStack.
func downgradeDualStack(spec, old *corev1.ServiceSpec) {
	if ptr.Deref(old.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack) == corev1.IPFamilyPolicySingleStack ||
		ptr.Deref(spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		return
	}
	if len(spec.ClusterIPs) == 2 && slices.Equal(spec.ClusterIPs, old.ClusterIPs) {
		spec.ClusterIPs = spec.ClusterIPs[:1]
	}
	if len(spec.IPFamilies) == 2 && slices.Equal(spec.IPFamilies, old.IPFamilies) {
		spec.IPFamilies = spec.IPFamilies[:1]
	}
}
