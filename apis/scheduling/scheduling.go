// Package scheduling holds the rows of the API group scheduling.
package scheduling

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		priorityClass.Resource(),
	}
}
