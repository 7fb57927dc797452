package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"keelson.dev/apis/resource"
)

var volumeAttributesClass = resource.Definition[*storagev1.VolumeAttributesClass]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "VolumeAttributesClass", Plural: "volumeattributesclasses",
	ShortNames:               []string{"vac"},
	AllowUnconditionalUpdate: true,
}
