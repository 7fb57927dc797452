package discovery

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// endpointSlice is a part of a service's addresses.
var endpointSlice = resource.Definition[*discoveryv1.EndpointSlice]{
	GroupVersion: discoveryv1.SchemeGroupVersion, Kind: "EndpointSlice", Plural: "endpointslices",
	Namespaced: true, AllowUnconditionalUpdate: true,
	GenerationOf: func(s *discoveryv1.EndpointSlice) any {
		return []any{s.Labels, s.AddressType, s.Endpoints, s.Ports}
	},
	Default: func(s *discoveryv1.EndpointSlice) {
		for i := range s.Ports {
			resource.SetDefaultPtr(&s.Ports[i].Name, "")
			resource.SetDefaultPtr(&s.Ports[i].Protocol, corev1.ProtocolTCP)
		}
	},
	Prepare:  dropTopology,
	Validate: func(s *discoveryv1.EndpointSlice) field.ErrorList { return validateEndpointSlice(s, nil) },
	ValidateUpdate: func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
		return append(validateEndpointSlice(s, old), validate.Fixed(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
	},
	Warn: warnEndpointSlice,
	Columns: resource.Columns([]resource.Column[*discoveryv1.EndpointSlice]{
		{Name: "AddressType", Description: doc("addressType"), Get: func(s *discoveryv1.EndpointSlice) any { return string(s.AddressType) }},
		{Name: "Ports", Description: doc("ports"), Get: func(s *discoveryv1.EndpointSlice) any {
			var ports []string
			for _, port := range s.Ports {
				ports = append(ports, printPort(port))
			}
			return firstFew(ports)
		}},
		{Name: "Endpoints", Description: doc("endpoints"), Get: func(s *discoveryv1.EndpointSlice) any {
			var addresses []string
			for _, endpoint := range s.Endpoints {
				addresses = append(addresses, endpoint.Addresses...)
			}
			return firstFew(addresses)
		}},
	}...),
}

func doc(name string) string { return discoveryv1.EndpointSlice{}.SwaggerDoc()[name] }

func printPort(port discoveryv1.EndpointPort) string {
	switch {
	case port.Port != nil:
		return strconv.Itoa(int(*port.Port))
	case port.Name != nil:
		return *port.Name
	}
	return "*"
}

// firstFew prints up to three values and how many more there are.
func firstFew(values []string) string {
	const shown = 3
	switch {
	case len(values) == 0:
		return "<unset>"
	case len(values) > shown:
		return fmt.Sprintf("%s + %d more...", strings.Join(values[:shown], ","), len(values)-shown)
	}
	return strings.Join(values, ",")
}

const (
	maxEndpoints = 1000
	maxAddresses = 100
	maxPorts     = 20000
	maxTopology  = 16
	maxHints     = 8
)

// dropTopology drops what v1 only reads. A node name that an old writer keeps there moves to its own field, if the stored slice
// knows it.
func dropTopology(s, old *discoveryv1.EndpointSlice) {
	if old != nil && validate.Equal(s.Endpoints, old.Endpoints) {
		return
	}
	former := sets.New[string]()
	if old != nil {
		for i := range old.Endpoints {
			if node, ok := old.Endpoints[i].DeprecatedTopology[corev1.LabelHostname]; ok {
				former.Insert(node)
			}
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		node, ok := e.DeprecatedTopology[corev1.LabelHostname]
		if e.NodeName == nil && ok && former.Has(node) && len(apivalidation.NameIsDNSSubdomain(node, false)) == 0 {
			e.NodeName = &node
		}
		e.DeprecatedTopology = nil
	}
}

// validateEndpointSlice does not judge endpoints again that old, nil on create, has already.
func validateEndpointSlice(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validate.RequiredOneOf(s.AddressType, field.NewPath("addressType"),
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	errs = append(errs, validatePorts(s.Ports, field.NewPath("ports"))...)
	if old != nil && validate.Equal(s.Endpoints, old.Endpoints) {
		return errs
	}
	path := field.NewPath("endpoints")
	if len(s.Endpoints) > maxEndpoints {
		return append(errs, field.TooMany(path, len(s.Endpoints), maxEndpoints))
	}
	for i := range s.Endpoints {
		errs = append(errs, validateEndpoint(&s.Endpoints[i], s.AddressType, path.Index(i))...)
	}
	return errs
}

func validateEndpoint(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	addresses := path.Child("addresses")
	if len(e.Addresses) == 0 {
		errs = append(errs, field.Required(addresses, ""))
	} else if len(e.Addresses) > maxAddresses {
		errs = append(errs, field.TooMany(addresses, len(e.Addresses), maxAddresses))
	}
	for i, address := range e.Addresses {
		errs = append(errs, validateAddress(address, kind, addresses, i)...)
	}
	if e.NodeName != nil {
		errs = append(errs, validate.ObjectName(*e.NodeName, path.Child("nodeName"), apivalidation.NameIsDNSSubdomain)...)
	}
	topology := path.Child("deprecatedTopology")
	if len(e.DeprecatedTopology) > maxTopology {
		errs = append(errs, field.TooMany(topology, len(e.DeprecatedTopology), maxTopology))
	}
	errs = append(errs, validate.Labels(e.DeprecatedTopology, topology)...)
	if _, found := e.DeprecatedTopology[corev1.LabelTopologyZone]; found {
		errs = append(errs, field.InternalError(topology.Key(corev1.LabelTopologyZone),
			fmt.Errorf("reserved key was not removed in conversion")))
	}
	if e.Hostname != nil {
		errs = append(errs, validate.DNSLabel(*e.Hostname, path.Child("hostname"))...)
	}
	if e.Hints != nil {
		errs = append(errs, validateHints(e.Hints, path.Child("hints"))...)
	}
	return errs
}

func validateAddress(address string, kind discoveryv1.AddressType, path *field.Path, i int) field.ErrorList {
	var errs field.ErrorList
	isFamily, family := netutils.IsIPv4String, "IPv4"
	switch kind {
	case discoveryv1.AddressTypeFQDN:
		return validation.IsFullyQualifiedDomainName(path.Index(i), address)
	case discoveryv1.AddressTypeIPv6:
		isFamily, family = netutils.IsIPv6String, "IPv6"
		errs = validate.StrictIP(address, path.Index(i))
	case discoveryv1.AddressTypeIPv4:
		errs = validate.IP(address, path.Index(i))
	default:
		return nil // reported with the type
	}
	if len(errs) > 0 {
		return errs
	}
	if !isFamily(address) {
		errs = append(errs, field.Invalid(path, address, fmt.Sprintf("must be an %s address", family)))
	}
	return append(errs, validate.NonSpecialIP(address, path.Index(i))...)
}

func validateHints(hints *discoveryv1.EndpointHints, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	zones := path.Child("forZones")
	if len(hints.ForZones) > maxHints {
		return append(errs, field.TooMany(zones, len(hints.ForZones), maxHints))
	}
	var seen []string
	for i, zone := range hints.ForZones {
		if slices.Contains(seen, zone.Name) {
			errs = append(errs, field.Duplicate(zones.Index(i).Child("name"), zone.Name))
			continue
		}
		seen = append(seen, zone.Name)
		errs = append(errs, validate.LabelValue(zone.Name, zones.Index(i).Child("name"))...)
	}
	nodes := path.Child("forNodes")
	if len(hints.ForNodes) > maxHints {
		return append(errs, field.TooMany(nodes, len(hints.ForNodes), maxHints))
	}
	seen = nil
	for i, node := range hints.ForNodes {
		if slices.Contains(seen, node.Name) {
			errs = append(errs, field.Duplicate(nodes.Index(i).Child("name"), node.Name))
			continue
		}
		seen = append(seen, node.Name)
		errs = append(errs, validate.DNSSubdomain(node.Name, nodes.Index(i).Child("name"))...)
	}
	return errs
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if len(ports) > maxPorts {
		return field.ErrorList{field.TooMany(path, len(ports), maxPorts)}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i, port := range ports {
		portPath := path.Index(i)
		name := ptr.Deref(port.Name, "")
		if name != "" {
			errs = append(errs, validate.DNSLabel(name, portPath.Child("name"))...)
		}
		if names.Has(name) {
			errs = append(errs, field.Duplicate(portPath.Child("name"), name))
		}
		names.Insert(name)
		errs = append(errs, validate.OptionalOneOf(port.Protocol, portPath.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		if port.AppProtocol != nil {
			errs = append(errs, validate.QualifiedName(*port.AppProtocol, portPath.Child("appProtocol"))...)
		}
	}
	return errs
}

func warnEndpointSlice(s, old *discoveryv1.EndpointSlice) []string {
	var warnings []string
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		if old == nil {
			warnings = append(warnings, "spec.addressType: FQDN endpoints are deprecated")
		}
		return warnings
	}
	for i, endpoint := range s.Endpoints {
		for j, address := range endpoint.Addresses {
			warnings = append(warnings, validate.WarnIP(address, field.NewPath("endpoints").Index(i).Child("addresses").Index(j))...)
		}
	}
	return warnings
}
