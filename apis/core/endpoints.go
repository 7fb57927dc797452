package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

var endpoints = resource.Definition[*corev1.Endpoints]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "Endpoints", Plural: "endpoints",
	ShortNames:          []string{"ep"},
	Namespaced:          true,
	AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
}
