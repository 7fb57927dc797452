package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"keelson.dev/apis/resource"
)

var serviceCIDR = resource.Definition[*networkingv1.ServiceCIDR]{
	GroupVersion: networkingv1.SchemeGroupVersion, Kind: "ServiceCIDR", Plural: "servicecidrs",
	HasStatus:                true,
	AllowUnconditionalUpdate: true,
}
