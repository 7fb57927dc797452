package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"keelson.dev/apis/resource"
)

var certificateSigningRequest = resource.Definition[*certificatesv1.CertificateSigningRequest]{
	GroupVersion: certificatesv1.SchemeGroupVersion, Kind: "CertificateSigningRequest", Plural: "certificatesigningrequests",
	ShortNames:               []string{"csr"},
	HasStatus:                true,
	AllowUnconditionalUpdate: true,
}
