package dra

import (
	resourcev1 "k8s.io/api/resource/v1"

	"keelson.dev/apis/resource"
)

var resourceClaimTemplate = resource.Definition[*resourcev1.ResourceClaimTemplate]{
	GroupVersion: resourcev1.SchemeGroupVersion, Kind: "ResourceClaimTemplate", Plural: "resourceclaimtemplates",
	Namespaced:               true,
	AllowUnconditionalUpdate: true,
}
