package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

var namespace = resource.Definition[*corev1.Namespace]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "Namespace", Plural: "namespaces",
	ShortNames:               []string{"ns"},
	HasStatus:                true,
	AllowUnconditionalUpdate: true,
}
