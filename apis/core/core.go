// Package core holds the rows of the API group core.
package core

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return append([]*resource.Resource{
		service.Resource(),
		endpoints.Resource(),
		node.Resource(),
		namespace.Resource(),
		configMap.Resource(),
		secret.Resource(),
		serviceAccount.Resource(),
		persistentVolume.Resource(),
		persistentVolumeClaim.Resource(),
		resourceQuota.Resource(),
		limitRange.Resource(),
		event.Resource(),
	}, workloadResources()...)
}
