package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"keelson.dev/apis/resource"
)

var mutatingWebhookConfiguration = resource.Definition[*admissionregistrationv1.MutatingWebhookConfiguration]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "MutatingWebhookConfiguration", Plural: "mutatingwebhookconfigurations",
}
