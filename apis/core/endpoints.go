package core

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// endpoints is the old list of a service's addresses; EndpointSlice is its successor.
var endpoints = resource.Definition[*corev1.Endpoints]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "Endpoints", Plural: "endpoints", ShortNames: []string{"ep"},
	KeyPrefix: "services/endpoints", Namespaced: true, AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
	Default: func(ep *corev1.Endpoints) {
		for i := range ep.Subsets {
			for j := range ep.Subsets[i].Ports {
				resource.SetDefault(&ep.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
			}
		}
	},
	Validate: validateEndpoints,
	Columns: resource.Columns(resource.Column[*corev1.Endpoints]{
		Name: "Endpoints", Description: corev1.Endpoints{}.SwaggerDoc()["subsets"],
		Get: func(ep *corev1.Endpoints) any { return printEndpoints(ep) },
	}),
}

const endpointsShown = 3

// printEndpoints shows the first ready addresses with their ports.
func printEndpoints(ep *corev1.Endpoints) string {
	var list []string
	total := 0
	add := func(text string) {
		if total++; total <= endpointsShown {
			list = append(list, text)
		}
	}
	for _, subset := range ep.Subsets {
		for _, address := range subset.Addresses {
			for _, port := range subset.Ports {
				add(net.JoinHostPort(address.IP, strconv.Itoa(int(port.Port))))
			}
			if len(subset.Ports) == 0 {
				add(address.IP)
			}
		}
	}
	if total == 0 {
		return "<none>"
	}
	text := strings.Join(list, ",")
	if total > endpointsShown {
		text += fmt.Sprintf(" + %d more...", total-endpointsShown)
	}
	return text
}

func validateEndpoints(ep *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i := range ep.Subsets {
		subset, path := &ep.Subsets[i], field.NewPath("subsets").Index(i)
		if len(subset.Addresses)+len(subset.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(path, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range subset.Addresses {
			errs = append(errs, validateEndpointAddress(&subset.Addresses[j], path.Child("addresses").Index(j))...)
		}
		for j := range subset.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(&subset.NotReadyAddresses[j], path.Child("notReadyAddresses").Index(j))...)
		}
		for j := range subset.Ports {
			errs = append(errs, validateEndpointPort(&subset.Ports[j], len(subset.Ports) > 1, path.Child("ports").Index(j))...)
		}
	}
	return errs
}

func validateEndpointAddress(address *corev1.EndpointAddress, path *field.Path) field.ErrorList {
	ipPath := path.Child("ip")
	errs := append(validate.IP(address.IP, ipPath), validate.NonSpecialIP(address.IP, ipPath)...)
	if address.Hostname != "" {
		errs = append(errs, validate.DNSLabel(address.Hostname, path.Child("hostname"))...)
	}
	if address.NodeName != nil {
		errs = append(errs, validate.ObjectName(*address.NodeName, path.Child("nodeName"), apivalidation.NameIsDNSSubdomain)...)
	}
	return errs
}

func validateEndpointPort(port *corev1.EndpointPort, nameRequired bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if port.Name != "" {
		errs = append(errs, validate.DNSLabel(port.Name, path.Child("name"))...)
	} else if nameRequired {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	errs = append(errs, validate.Port(port.Port, path.Child("port"))...)
	errs = append(errs, validate.Protocol(port.Protocol, path.Child("protocol"))...)
	if port.AppProtocol != nil {
		errs = append(errs, validate.QualifiedName(*port.AppProtocol, path.Child("appProtocol"))...)
	}
	return errs
}
