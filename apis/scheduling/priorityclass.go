package scheduling

import (
	schedulingv1 "k8s.io/api/scheduling/v1"

	"keelson.dev/apis/resource"
)

var priorityClass = resource.Definition[*schedulingv1.PriorityClass]{
	GroupVersion: schedulingv1.SchemeGroupVersion, Kind: "PriorityClass", Plural: "priorityclasses",
	ShortNames:               []string{"pc"},
	AllowUnconditionalUpdate: true,
}
