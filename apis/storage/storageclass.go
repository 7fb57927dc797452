package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"keelson.dev/apis/resource"
)

var storageClass = resource.Definition[*storagev1.StorageClass]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "StorageClass", Plural: "storageclasses",
	ShortNames:               []string{"sc"},
	AllowUnconditionalUpdate: true,
}
