package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"

	"keelson.dev/apis/resource"
)

var lease = resource.Definition[*coordinationv1.Lease]{
	GroupVersion: coordinationv1.SchemeGroupVersion, Kind: "Lease", Plural: "leases",
	Namespaced:          true,
	AllowCreateOnUpdate: true,
}
