// Package dra holds the rows of the API group resource.k8s.io: devices and claims to them. Most of its rules stand as tags on the
// Go types and are generated; those that tags cannot say follow in validation.go. Expressions in CEL are compiled by package
// apiserver.
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
