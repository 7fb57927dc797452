package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

var secret = resource.Definition[*corev1.Secret]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "Secret", Plural: "secrets",
	Namespaced:               true,
	AllowUnconditionalUpdate: true,
}
