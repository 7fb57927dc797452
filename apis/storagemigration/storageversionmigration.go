package storagemigration

import (
	storagemigrationv1 "k8s.io/api/storagemigration/v1"

	"keelson.dev/apis/resource"
)

var storageVersionMigration = resource.Definition[*storagemigrationv1.StorageVersionMigration]{
	GroupVersion: storagemigrationv1.SchemeGroupVersion, Kind: "StorageVersionMigration", Plural: "storageversionmigrations",
	HasStatus:                true,
	AllowUnconditionalUpdate: true,
}
