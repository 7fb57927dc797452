package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
)

// service is one address for a set of pods. Its IPs, IP families and node ports are allocated by apiserver/registry after
// validation; this file and its neighbours only keep and check them.
var service = resource.Definition[*corev1.Service]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "Service", NameOnce: true, Plural: "services",
	ShortNames: []string{"svc"}, Categories: []string{"all"}, KeyPrefix: "services/specs",
	Namespaced: true, HasStatus: true, GenerationOf: resource.NoGeneration[*corev1.Service],
	AllowUnconditionalUpdate: true, ReturnDeleted: true,
	ValidateName: apivalidation.NameIsDNSLabel,
	Default:      defaultService,
	Prepare:      prepareService,
	Validate:     validateService, ValidateUpdate: validateServiceUpdate, ValidateStatus: validateServiceStatus,
	Warn: warnService, WarnStatus: warnServiceStatus,
	Fields: map[string]func(*corev1.Service) string{
		"spec.clusterIP": func(s *corev1.Service) string { return s.Spec.ClusterIP },
		"spec.type":      func(s *corev1.Service) string { return string(s.Spec.Type) },
	},
	Columns: resource.Columns([]resource.Column[*corev1.Service]{
		{Name: "Type", Description: specDoc("type"), Get: func(s *corev1.Service) any { return string(s.Spec.Type) }},
		{Name: "Cluster-IP", Description: specDoc("clusterIP"), Get: func(s *corev1.Service) any {
			if len(s.Spec.ClusterIPs) == 0 {
				return "<none>"
			}
			return s.Spec.ClusterIPs[0]
		}},
		{Name: "External-IP", Description: specDoc("externalIPs"), Get: func(s *corev1.Service) any { return externalAddresses(s) }},
		{Name: "Port(s)", Description: specDoc("ports"), Get: func(s *corev1.Service) any { return printPorts(s.Spec.Ports) }},
		{Name: "Selector", Priority: 1, Description: specDoc("selector"), Get: func(s *corev1.Service) any {
			return labels.FormatLabels(s.Spec.Selector)
		}},
	}...),
}

func specDoc(name string) string { return corev1.ServiceSpec{}.SwaggerDoc()[name] }

const defaultClientIPTimeout = 10800 // seconds: three hours

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	resource.SetDefault(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{
				ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](defaultClientIPTimeout)},
			}
		}
	}
	resource.SetDefault(&spec.Type, corev1.ServiceTypeClusterIP)
	for i := range spec.Ports {
		port := &spec.Ports[i]
		resource.SetDefault(&port.Protocol, corev1.ProtocolTCP)
		if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
	if externallyAccessible(spec) {
		resource.SetDefault(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if hasClusterIP(spec) && spec.InternalTrafficPolicy == nil {
		spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	if spec.AllocateLoadBalancerNodePorts == nil {
		spec.AllocateLoadBalancerNodePorts = new(true)
	}
	for i := range s.Status.LoadBalancer.Ingress {
		if ingress := &s.Status.LoadBalancer.Ingress[i]; ingress.IP != "" && ingress.IPMode == nil {
			ingress.IPMode = new(corev1.LoadBalancerIPModeVIP)
		}
	}
}

// externallyAccessible tells whether traffic from outside the cluster can reach the service.
func externallyAccessible(spec *corev1.ServiceSpec) bool {
	return hasNodePorts(spec) || spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0
}

// mayHaveClusterIP is true for types that do not exist too: they are refused, and nothing of the service should change before.
func mayHaveClusterIP(spec *corev1.ServiceSpec) bool {
	return spec.Type != corev1.ServiceTypeExternalName
}

// hasClusterIP tells whether the type of the service comes with an address.
func hasClusterIP(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeClusterIP || hasNodePorts(spec)
}

func hasNodePorts(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer
}

// hasHealthCheckPort tells whether load balancers have to ask each node whether it has an endpoint.
func hasHealthCheckPort(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func isHeadless(spec *corev1.ServiceSpec) bool {
	return len(spec.ClusterIPs) == 1 && spec.ClusterIPs[0] == corev1.ClusterIPNone
}

func externalAddresses(s *corev1.Service) string {
	addresses := loadBalancerAddresses(s.Status.LoadBalancer.Ingress)
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return resource.OrNone(s.Spec.ExternalIPs)
	case corev1.ServiceTypeLoadBalancer:
		if all := slices.Concat(addresses, s.Spec.ExternalIPs); len(all) > 0 {
			return strings.Join(all, ",")
		}
		return "<pending>"
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return "<unknown>"
}

func loadBalancerAddresses(ingresses []corev1.LoadBalancerIngress) []string {
	var addresses []string
	for _, ingress := range ingresses {
		if ingress.IP != "" {
			addresses = append(addresses, ingress.IP)
		} else if ingress.Hostname != "" {
			addresses = append(addresses, ingress.Hostname)
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses)
}

func printPorts(ports []corev1.ServicePort) string {
	var printed []string
	for _, port := range ports {
		if port.NodePort > 0 {
			printed = append(printed, fmt.Sprintf("%d:%d/%s", port.Port, port.NodePort, port.Protocol))
			continue
		}
		printed = append(printed, fmt.Sprintf("%d/%s", port.Port, port.Protocol))
	}
	return resource.OrNone(printed)
}
