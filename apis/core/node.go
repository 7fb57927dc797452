package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

var node = resource.Definition[*corev1.Node]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "Node", Plural: "nodes",
	ShortNames:               []string{"no"},
	HasStatus:                true,
	AllowUnconditionalUpdate: true,
}
