package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"keelson.dev/apis/resource"
)

var podCertificateRequest = resource.Definition[*certificatesv1.PodCertificateRequest]{
	GroupVersion: certificatesv1.SchemeGroupVersion, Kind: "PodCertificateRequest", Plural: "podcertificaterequests",
	Namespaced: true, HasStatus: true,
}
