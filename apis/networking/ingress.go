package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"keelson.dev/apis/resource"
)

var ingress = resource.Definition[*networkingv1.Ingress]{
	GroupVersion: networkingv1.SchemeGroupVersion, Kind: "Ingress", Plural: "ingresses",
	ShortNames: []string{"ing"},
	Namespaced: true, HasStatus: true,
	AllowUnconditionalUpdate: true,
}
