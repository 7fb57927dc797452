// Package autoscaling holds the row of the API group autoscaling. HorizontalPodAutoscaler is the one kind of 1.37 that is served in
// two versions: v2 is the hub, conversion.go maps v1 onto it.
package autoscaling

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		horizontalPodAutoscaler.Resource(),
	}
}
