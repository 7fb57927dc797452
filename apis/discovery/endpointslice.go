package discovery

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"keelson.dev/apis/resource"
)

var endpointSlice = resource.Definition[*discoveryv1.EndpointSlice]{
	GroupVersion: discoveryv1.SchemeGroupVersion, Kind: "EndpointSlice", Plural: "endpointslices",
	Namespaced:               true,
	AllowUnconditionalUpdate: true,
}
