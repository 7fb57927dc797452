package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

var persistentVolume = resource.Definition[*corev1.PersistentVolume]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "PersistentVolume", Plural: "persistentvolumes",
	ShortNames:               []string{"pv"},
	HasStatus:                true,
	AllowUnconditionalUpdate: true,
}
