package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"keelson.dev/apis/resource"
)

var validatingAdmissionPolicy = resource.Definition[*admissionregistrationv1.ValidatingAdmissionPolicy]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "ValidatingAdmissionPolicy", Plural: "validatingadmissionpolicies",
	HasStatus: true,
}
