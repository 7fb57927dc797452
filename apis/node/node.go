// Package node holds the rows of the API group node.
package node

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		runtimeClass.Resource(),
	}
}
