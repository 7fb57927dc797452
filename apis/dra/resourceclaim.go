package dra

import (
	resourcev1 "k8s.io/api/resource/v1"

	"keelson.dev/apis/resource"
)

var resourceClaim = resource.Definition[*resourcev1.ResourceClaim]{
	GroupVersion: resourcev1.SchemeGroupVersion, Kind: "ResourceClaim", Plural: "resourceclaims",
	Namespaced: true, HasStatus: true,
	AllowUnconditionalUpdate: true,
}
