package dra

import (
	resourcev1 "k8s.io/api/resource/v1"

	"keelson.dev/apis/resource"
)

var resourceSlice = resource.Definition[*resourcev1.ResourceSlice]{
	GroupVersion: resourcev1.SchemeGroupVersion, Kind: "ResourceSlice", Plural: "resourceslices",
	AllowUnconditionalUpdate: true,
}
