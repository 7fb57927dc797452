package node

import (
	nodev1 "k8s.io/api/node/v1"

	"keelson.dev/apis/resource"
)

var runtimeClass = resource.Definition[*nodev1.RuntimeClass]{
	GroupVersion: nodev1.SchemeGroupVersion, Kind: "RuntimeClass", Plural: "runtimeclasses",
}
