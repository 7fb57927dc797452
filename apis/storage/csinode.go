package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"keelson.dev/apis/resource"
)

var csiNode = resource.Definition[*storagev1.CSINode]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "CSINode", Plural: "csinodes",
}
