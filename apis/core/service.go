package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

var service = resource.Definition[*corev1.Service]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "Service", Plural: "services",
	ShortNames: []string{"svc"},
	Namespaced: true, HasStatus: true,
	AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
}
