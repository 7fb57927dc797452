package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

var serviceAccount = resource.Definition[*corev1.ServiceAccount]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "ServiceAccount", Plural: "serviceaccounts",
	ShortNames: []string{"sa"},
	Namespaced: true,
}
