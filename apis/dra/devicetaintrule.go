package dra

import (
	resourcev1 "k8s.io/api/resource/v1"

	"keelson.dev/apis/resource"
)

var deviceTaintRule = resource.Definition[*resourcev1.DeviceTaintRule]{
	GroupVersion: resourcev1.SchemeGroupVersion, Kind: "DeviceTaintRule", Plural: "devicetaintrules",
	HasStatus:                true,
	AllowUnconditionalUpdate: true,
}
