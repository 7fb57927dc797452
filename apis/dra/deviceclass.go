package dra

import (
	resourcev1 "k8s.io/api/resource/v1"

	"keelson.dev/apis/resource"
)

var deviceClass = resource.Definition[*resourcev1.DeviceClass]{
	GroupVersion: resourcev1.SchemeGroupVersion, Kind: "DeviceClass", Plural: "deviceclasses",
	AllowUnconditionalUpdate: true,
}
