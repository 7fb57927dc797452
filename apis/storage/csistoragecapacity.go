package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"keelson.dev/apis/resource"
)

var csiStorageCapacity = resource.Definition[*storagev1.CSIStorageCapacity]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "CSIStorageCapacity", Plural: "csistoragecapacities",
	Namespaced: true,
}
