package autoscaling

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"

	"keelson.dev/apis/resource"
)

var horizontalPodAutoscaler = resource.Definition[*autoscalingv2.HorizontalPodAutoscaler]{
	GroupVersion: autoscalingv2.SchemeGroupVersion, Kind: "HorizontalPodAutoscaler", Plural: "horizontalpodautoscalers",
	ShortNames: []string{"hpa"},
	Namespaced: true, HasStatus: true,
	AllowUnconditionalUpdate: true,
}
