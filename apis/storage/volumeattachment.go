package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"keelson.dev/apis/resource"
)

var volumeAttachment = resource.Definition[*storagev1.VolumeAttachment]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "VolumeAttachment", Plural: "volumeattachments",
	HasStatus: true,
}
