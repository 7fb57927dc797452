// Package dra holds the rows of the API group resource.
package dra

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		deviceClass.Resource(),
		resourceClaim.Resource(),
		resourceClaimTemplate.Resource(),
		resourceSlice.Resource(),
		deviceTaintRule.Resource(),
	}
}
