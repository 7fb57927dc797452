package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"keelson.dev/apis/resource"
)

var networkPolicy = resource.Definition[*networkingv1.NetworkPolicy]{
	GroupVersion: networkingv1.SchemeGroupVersion, Kind: "NetworkPolicy", Plural: "networkpolicies",
	ShortNames:               []string{"netpol"},
	Namespaced:               true,
	AllowUnconditionalUpdate: true,
}
