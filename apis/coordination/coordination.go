// Package coordination holds the rows of the API group coordination.
package coordination

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		lease.Resource(),
	}
}
