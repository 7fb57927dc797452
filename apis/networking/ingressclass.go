package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"keelson.dev/apis/resource"
)

var ingressClass = resource.Definition[*networkingv1.IngressClass]{
	GroupVersion: networkingv1.SchemeGroupVersion, Kind: "IngressClass", Plural: "ingressclasses",
	AllowUnconditionalUpdate: true,
}
