// Package certificates holds the rows of the API group certificates.
package certificates

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		certificateSigningRequest.Resource(),
		clusterTrustBundle.Resource(),
		podCertificateRequest.Resource(),
	}
}
