package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

var resourceQuota = resource.Definition[*corev1.ResourceQuota]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "ResourceQuota", Plural: "resourcequotas",
	ShortNames: []string{"quota"},
	Namespaced: true, HasStatus: true,
	AllowUnconditionalUpdate: true,
}
