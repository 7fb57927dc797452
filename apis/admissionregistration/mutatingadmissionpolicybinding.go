package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"keelson.dev/apis/resource"
)

var mutatingAdmissionPolicyBinding = resource.Definition[*admissionregistrationv1.MutatingAdmissionPolicyBinding]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "MutatingAdmissionPolicyBinding", Plural: "mutatingadmissionpolicybindings",
}
