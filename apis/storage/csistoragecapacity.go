package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// csiStorageCapacity tells the scheduler how much a driver has left in a part of the cluster.
var csiStorageCapacity = resource.Definition[*storagev1.CSIStorageCapacity]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "CSIStorageCapacity", Plural: "csistoragecapacities", Namespaced: true,
	Validate: validateCapacity,
	ValidateUpdate: func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
		errs := validateCapacity(c)
		errs = append(errs, validate.Immutable(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))...)
		return append(errs, validate.Immutable(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
	},
	Columns: resource.CreatedAtColumns[*storagev1.CSIStorageCapacity](), // upstream's table of it is not wired
}

func validateCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList {
	errs := validate.ObjectName(c.StorageClassName, field.NewPath("storageClassName"), apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validate.LabelSelector(c.NodeTopology, field.NewPath("nodeTopology"))...)
	if c.Capacity != nil {
		errs = append(errs, validate.NonnegativeQuantity(*c.Capacity, field.NewPath("capacity"))...)
	}
	return errs
}
