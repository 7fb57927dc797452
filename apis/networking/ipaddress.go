package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"keelson.dev/apis/resource"
)

var ipAddress = resource.Definition[*networkingv1.IPAddress]{
	GroupVersion: networkingv1.SchemeGroupVersion, Kind: "IPAddress", Plural: "ipaddresses",
	ShortNames:               []string{"ip"},
	AllowUnconditionalUpdate: true,
}
