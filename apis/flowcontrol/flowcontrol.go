// Package flowcontrol holds the rows of the API group flowcontrol.
package flowcontrol

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		flowSchema.Resource(),
		priorityLevelConfiguration.Resource(),
	}
}
