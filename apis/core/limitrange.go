package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

var limitRange = resource.Definition[*corev1.LimitRange]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "LimitRange", Plural: "limitranges",
	ShortNames:          []string{"limits"},
	Namespaced:          true,
	AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
}
