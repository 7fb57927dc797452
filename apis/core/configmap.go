package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

var configMap = resource.Definition[*corev1.ConfigMap]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "ConfigMap", Plural: "configmaps",
	ShortNames:               []string{"cm"},
	Namespaced:               true,
	AllowUnconditionalUpdate: true,
}
