// Package admissionregistration holds the rows of the API group admissionregistration.
package admissionregistration

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		validatingWebhookConfiguration.Resource(),
		mutatingWebhookConfiguration.Resource(),
		validatingAdmissionPolicy.Resource(),
		validatingAdmissionPolicyBinding.Resource(),
		mutatingAdmissionPolicy.Resource(),
		mutatingAdmissionPolicyBinding.Resource(),
	}
}
