package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/validate"
)

const (
	kubeletPort        = 10250
	maxClientIPTimeout = 86400 // seconds: one day
)

func validateService(s *corev1.Service) field.ErrorList { return validateServiceSpec(s, nil) }

// validateServiceSpec checks a service; old is the spec that it replaces, nil on create.
func validateServiceSpec(s *corev1.Service, old *corev1.ServiceSpec) field.ErrorList {
	path := field.NewPath("spec")
	spec := &s.Spec
	errs := validateServiceType(spec, path)
	errs = append(errs, validateServicePorts(spec, path.Child("ports"))...)
	if spec.Selector != nil {
		errs = append(errs, validate.Labels(spec.Selector, path.Child("selector"))...)
	}
	errs = append(errs, validateSessionAffinity(spec, path)...)
	errs = append(errs, validateClusterIPs(spec, old, path)...)
	for i, ip := range spec.ExternalIPs {
		ipPath := path.Child("externalIPs").Index(i)
		if ipErrs := validate.IP(ip, ipPath); len(ipErrs) > 0 {
			errs = append(errs, ipErrs...)
			continue
		}
		errs = append(errs, validate.NonSpecialIP(ip, ipPath)...)
	}
	errs = append(errs, validateSourceRanges(s, path)...)
	if spec.Type == corev1.ServiceTypeLoadBalancer && spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(path.Child("allocateLoadBalancerNodePorts"), ""))
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer && spec.AllocateLoadBalancerNodePorts != nil {
		errs = append(errs, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), onlyLoadBalancer))
	}
	errs = append(errs, validateLoadBalancerClass(spec, path.Child("loadBalancerClass"))...)
	return append(errs, validateTrafficPolicies(spec, path)...)
}

const onlyLoadBalancer = "may only be used when `type` is 'LoadBalancer'"

// validateServiceType checks what the type demands of the other fields.
func validateServiceType(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	errs := validate.RequiredOneOf(spec.Type, path.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	if len(spec.Ports) == 0 && !isHeadless(spec) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path.Child("ports"), ""))
	}
	if hasNodePorts(spec) && isHeadless(spec) {
		errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIPs[0],
			fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
	}
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		for i, port := range spec.Ports {
			if port.Port == kubeletPort { // some clouds open the firewall for the port on every node
				errs = append(errs, field.Invalid(path.Child("ports").Index(i), port.Port,
					fmt.Sprintf("may not expose port %v externally since it is used by kubelet", kubeletPort)))
			}
		}
	case corev1.ServiceTypeExternalName:
		errs = append(errs, validateExternalName(spec, path)...)
	default: // demands nothing more
	}
	return errs
}

func validateExternalName(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	const message = "may not be set for ExternalName services"
	var errs field.ErrorList
	if len(spec.ClusterIPs) > 0 {
		errs = append(errs, field.Forbidden(path.Child("clusterIPs"), message))
	}
	if len(spec.IPFamilies) > 0 {
		errs = append(errs, field.Forbidden(path.Child("ipFamilies"), message))
	}
	if spec.IPFamilyPolicy != nil {
		errs = append(errs, field.Forbidden(path.Child("ipFamilyPolicy"), message))
	}
	name := strings.TrimSuffix(spec.ExternalName, ".") // a trailing dot marks a fully qualified name
	if name == "" {
		return append(errs, field.Required(path.Child("externalName"), ""))
	}
	return append(errs, validate.DNSSubdomain(name, path.Child("externalName"))...)
}

func validateServicePorts(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	type portKey struct {
		protocol corev1.Protocol
		port     int32
	}
	var errs field.ErrorList
	names, ports, nodePorts := sets.New[string](), sets.New[portKey](), sets.New[portKey]()
	for i := range spec.Ports {
		port, portPath := &spec.Ports[i], path.Index(i)
		errs = append(errs, validateServicePort(port, len(spec.Ports) > 1, names, portPath)...)
		names.Insert(port.Name)
		if spec.Type == corev1.ServiceTypeClusterIP && port.NodePort != 0 {
			errs = append(errs, field.Forbidden(portPath.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		}
		if key := (portKey{port.Protocol, port.NodePort}); port.NodePort != 0 {
			if nodePorts.Has(key) {
				errs = append(errs, field.Duplicate(portPath.Child("nodePort"), port.NodePort))
			}
			nodePorts.Insert(key)
		}
		key := portKey{port.Protocol, port.Port}
		if ports.Has(key) {
			errs = append(errs, field.Duplicate(portPath, corev1.ServicePort{Protocol: port.Protocol, Port: port.Port}))
		}
		ports.Insert(key)
	}
	return errs
}

func validateServicePort(port *corev1.ServicePort, nameRequired bool, names sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case port.Name == "" && nameRequired:
		errs = append(errs, field.Required(path.Child("name"), ""))
	case port.Name != "":
		errs = append(errs, validate.DNSLabel(port.Name, path.Child("name"))...)
		if names.Has(port.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), port.Name))
		}
	}
	errs = append(errs, validate.Port(port.Port, path.Child("port"))...)
	errs = append(errs, validate.Protocol(port.Protocol, path.Child("protocol"))...)
	errs = append(errs, validate.PortOrName(port.TargetPort, path.Child("targetPort"))...)
	if port.AppProtocol != nil {
		errs = append(errs, validate.QualifiedName(*port.AppProtocol, path.Child("appProtocol"))...)
	}
	return errs
}

func validateSessionAffinity(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	errs := validate.RequiredOneOf(spec.SessionAffinity, path.Child("sessionAffinity"),
		corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	configPath := path.Child("sessionAffinityConfig")
	config := spec.SessionAffinityConfig
	required := fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)
	switch {
	case spec.SessionAffinity == corev1.ServiceAffinityNone && config != nil:
		return append(errs, field.Forbidden(configPath,
			fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
	case spec.SessionAffinity != corev1.ServiceAffinityClientIP:
		return errs
	case config == nil:
		return append(errs, field.Required(configPath, required))
	case config.ClientIP == nil:
		return append(errs, field.Required(configPath.Child("clientIP"), required))
	case config.ClientIP.TimeoutSeconds == nil:
		return append(errs, field.Required(configPath.Child("clientIP", "timeoutSeconds"), required))
	}
	if timeout := *config.ClientIP.TimeoutSeconds; timeout <= 0 || timeout > maxClientIPTimeout {
		errs = append(errs, field.Invalid(configPath.Child("clientIP", "timeoutSeconds"), timeout,
			fmt.Sprintf("must be greater than 0 and less than %d", maxClientIPTimeout)))
	}
	return errs
}

// validateSourceRanges checks the field, or the annotation that came before it. Values may be padded with spaces, as they were
// in the annotation.
func validateSourceRanges(s *corev1.Service, path *field.Path) field.ErrorList {
	rangesPath := path.Child("LoadBalancerSourceRanges")
	itemPath := func(i int) *field.Path { return rangesPath.Index(i) }
	ranges := s.Spec.LoadBalancerSourceRanges
	annotation, annotated := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if len(ranges) == 0 {
		if !annotated {
			return nil
		}
		rangesPath = field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
		itemPath = func(int) *field.Path { return rangesPath }
		if annotation = strings.TrimSpace(annotation); annotation != "" {
			ranges = strings.Split(annotation, ",")
		}
	}
	var errs field.ErrorList
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(rangesPath, onlyLoadBalancer))
	}
	for i, cidr := range ranges {
		errs = append(errs, validate.CIDR(strings.TrimSpace(cidr), itemPath(i))...)
	}
	return errs
}

func validateLoadBalancerClass(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	switch {
	case spec.LoadBalancerClass == nil:
		return nil
	case spec.Type != corev1.ServiceTypeLoadBalancer:
		return field.ErrorList{field.Forbidden(path, onlyLoadBalancer)}
	}
	return validate.QualifiedName(*spec.LoadBalancerClass, path)
}

func validateTrafficPolicies(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	external := path.Child("externalTrafficPolicy")
	if externallyAccessible(spec) {
		errs = validate.RequiredOneOf(spec.ExternalTrafficPolicy, external,
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	} else if spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(external, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	if port := spec.HealthCheckNodePort; port != 0 {
		portPath := path.Child("healthCheckNodePort")
		if hasHealthCheckPort(spec) {
			errs = append(errs, validate.Port(port, portPath)...)
		} else {
			errs = append(errs, field.Invalid(portPath, port,
				"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
		}
	}
	errs = append(errs, validateInternalPolicy(spec, path.Child("internalTrafficPolicy"))...)
	return append(errs, validate.OptionalOneOf(spec.TrafficDistribution, path.Child("trafficDistribution"),
		corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone,
		corev1.ServiceTrafficDistributionPreferSameNode)...)
}

func validateInternalPolicy(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	if spec.InternalTrafficPolicy == nil && hasClusterIP(spec) {
		return field.ErrorList{field.Required(path, "")}
	}
	return validate.OptionalOneOf(spec.InternalTrafficPolicy, path, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
}

func validateServiceStatus(s, _ *corev1.Service) field.ErrorList {
	path := field.NewPath("status", "loadBalancer", "ingress")
	var errs field.ErrorList
	if len(s.Status.LoadBalancer.Ingress) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'"))
	}
	for i, ingress := range s.Status.LoadBalancer.Ingress {
		ingressPath := path.Index(i)
		errs = append(errs, validateLoadBalancerAddress(ingress.IP, ingress.Hostname, ingressPath)...)
		modePath := ingressPath.Child("ipMode")
		switch {
		case ingress.IP != "" && ingress.IPMode == nil:
			errs = append(errs, field.Required(modePath, "must be specified when `ip` is set"))
		case ingress.IP == "" && ingress.IPMode != nil:
			errs = append(errs, field.Forbidden(modePath, "may not be specified when `ip` is not set"))
		default:
			errs = append(errs, validate.OptionalOneOf(ingress.IPMode, modePath,
				corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
		}
	}
	return errs
}

func validateLoadBalancerAddress(ip, hostname string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if ip != "" {
		errs = append(errs, validate.IP(ip, path.Child("ip"))...)
	}
	if hostname != "" {
		errs = append(errs, validate.Messages(path.Child("hostname"), hostname, validation.IsDNS1123Subdomain(hostname))...)
		if netutils.ParseIPSloppy(hostname) != nil {
			errs = append(errs, field.Invalid(path.Child("hostname"), hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}

func warnServiceStatus(s *corev1.Service) []string {
	var warnings []string
	for i, ingress := range s.Status.LoadBalancer.Ingress {
		warnings = append(warnings, validate.WarnIP(ingress.IP, field.NewPath("status", "loadBalancer", "ingress").Index(i))...)
	}
	return warnings
}

func warnService(s, _ *corev1.Service) []string {
	var warnings []string
	if isHeadless(&s.Spec) {
		if s.Spec.LoadBalancerIP != "" {
			warnings = append(warnings, "spec.loadBalancerIP is ignored for headless services")
		}
		if len(s.Spec.ExternalIPs) > 0 {
			warnings = append(warnings, "spec.externalIPs is ignored for headless services")
		}
		if s.Spec.SessionAffinity != corev1.ServiceAffinityNone {
			warnings = append(warnings, "spec.SessionAffinity is ignored for headless services")
		}
	}
	path := field.NewPath("spec")
	external := s.Spec.Type == corev1.ServiceTypeExternalName
	switch hasIPs := len(s.Spec.ExternalIPs) > 0; {
	case hasIPs && external:
		warnings = append(warnings, `spec.externalIPs is ignored when spec.type is "ExternalName"`)
	case hasIPs && !isHeadless(&s.Spec):
		warnings = append(warnings, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if !external && s.Spec.ExternalName != "" {
		warnings = append(warnings, `spec.externalName is ignored when spec.type is not "ExternalName"`)
	}
	if ptr.Deref(s.Spec.TrafficDistribution, "") == corev1.ServiceTrafficDistributionPreferClose {
		warnings = append(warnings, `spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`)
	}
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		warnings = append(warnings, fmt.Sprintf("annotation %s is deprecated, please use %s instead",
			corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	warnings = append(warnings, validate.WarnIP(s.Spec.LoadBalancerIP, path.Child("loadBalancerIP"))...)
	for i, ip := range s.Spec.ExternalIPs {
		warnings = append(warnings, validate.WarnIP(ip, path.Child("externalIPs").Index(i))...)
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		warnings = append(warnings, validate.WarnCIDR(strings.TrimSpace(cidr), path.Child("loadBalancerSourceRanges").Index(i))...)
	}
	if !isHeadless(&s.Spec) {
		for i, ip := range s.Spec.ClusterIPs {
			warnings = append(warnings, validate.WarnIP(ip, path.Child("clusterIPs").Index(i))...)
		}
	}
	return warnings
}
