// Package policy holds the rows of the API group policy.
package policy

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		podDisruptionBudget.Resource(),
	}
}
