package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"keelson.dev/apis/resource"
)

var flowSchema = resource.Definition[*flowcontrolv1.FlowSchema]{
	GroupVersion: flowcontrolv1.SchemeGroupVersion, Kind: "FlowSchema", Plural: "flowschemas",
	HasStatus: true,
}
