package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"keelson.dev/apis/resource"
)

var validatingWebhookConfiguration = resource.Definition[*admissionregistrationv1.ValidatingWebhookConfiguration]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "ValidatingWebhookConfiguration", Plural: "validatingwebhookconfigurations",
}
