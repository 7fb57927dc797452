// Package networking holds the rows of the API group networking.
package networking

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		ingress.Resource(),
		ingressClass.Resource(),
		networkPolicy.Resource(),
		ipAddress.Resource(),
		serviceCIDR.Resource(),
	}
}
