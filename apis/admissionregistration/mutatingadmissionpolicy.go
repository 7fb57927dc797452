package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"keelson.dev/apis/resource"
)

var mutatingAdmissionPolicy = resource.Definition[*admissionregistrationv1.MutatingAdmissionPolicy]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "MutatingAdmissionPolicy", Plural: "mutatingadmissionpolicies",
}
