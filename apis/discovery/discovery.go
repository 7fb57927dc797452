// Package discovery holds the rows of the API group discovery.
package discovery

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		endpointSlice.Resource(),
	}
}
