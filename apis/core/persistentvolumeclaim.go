package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

var persistentVolumeClaim = resource.Definition[*corev1.PersistentVolumeClaim]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "PersistentVolumeClaim", Plural: "persistentvolumeclaims",
	ShortNames: []string{"pvc"},
	Namespaced: true, HasStatus: true,
	AllowUnconditionalUpdate: true,
}
