// Package autoscaling holds the rows of the API group autoscaling.
package autoscaling

import (
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/apis/resource"
)

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		horizontalPodAutoscaler.Resource(),
	}
}

// Register adds the conversions between v1 and the hub, v2.
func Register(scheme *runtime.Scheme) error { return nil }
