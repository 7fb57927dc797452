// Package batch holds the rows of the API group batch: pods that run to completion, now or on a schedule.
package batch

import (
	batchv1 "k8s.io/api/batch/v1"

	"keelson.dev/apis/resource"
)

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		job.Resource(),
		cronJob.Resource(),
	}
}

var groupVersion = batchv1.SchemeGroupVersion
