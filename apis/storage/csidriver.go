package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"keelson.dev/apis/resource"
)

var csiDriver = resource.Definition[*storagev1.CSIDriver]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "CSIDriver", Plural: "csidrivers",
}
