// Package storagemigration holds the rows of the API group storagemigration.
package storagemigration

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		storageVersionMigration.Resource(),
	}
}
