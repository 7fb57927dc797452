package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"keelson.dev/apis/resource"
)

var clusterTrustBundle = resource.Definition[*certificatesv1.ClusterTrustBundle]{
	GroupVersion: certificatesv1.SchemeGroupVersion, Kind: "ClusterTrustBundle", Plural: "clustertrustbundles",
}
