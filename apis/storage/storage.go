// Package storage holds the rows of the API group storage.
package storage

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		storageClass.Resource(),
		volumeAttachment.Resource(),
		csiDriver.Resource(),
		csiNode.Resource(),
		csiStorageCapacity.Resource(),
		volumeAttributesClass.Resource(),
	}
}
