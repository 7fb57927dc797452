package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"keelson.dev/apis/resource"
)

var priorityLevelConfiguration = resource.Definition[*flowcontrolv1.PriorityLevelConfiguration]{
	GroupVersion: flowcontrolv1.SchemeGroupVersion, Kind: "PriorityLevelConfiguration", Plural: "prioritylevelconfigurations",
	HasStatus: true,
}
