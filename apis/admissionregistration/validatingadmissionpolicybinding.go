package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"keelson.dev/apis/resource"
)

var validatingAdmissionPolicyBinding = resource.Definition[*admissionregistrationv1.ValidatingAdmissionPolicyBinding]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "ValidatingAdmissionPolicyBinding", Plural: "validatingadmissionpolicybindings",
}
