package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
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
	Columns: []resource.Column[*storagev1.CSIStorageCapacity]{
		resource.NameColumn[*storagev1.CSIStorageCapacity](),
		{Name: "StorageClassName", Description: capacityDoc("storageClassName"), Get: func(c *storagev1.CSIStorageCapacity) any { return c.StorageClassName }},
		{Name: "Capacity", Description: capacityDoc("capacity"), Get: func(c *storagev1.CSIStorageCapacity) any {
			if c.Capacity == nil {
				return "<unset>"
			}
			return c.Capacity.String()
		}},
	},
}

func capacityDoc(name string) string { return storagev1.CSIStorageCapacity{}.SwaggerDoc()[name] }

func validateCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList {
	errs := validate.ObjectName(c.StorageClassName, field.NewPath("storageClassName"), apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validate.LabelSelector(c.NodeTopology, field.NewPath("nodeTopology"))...)
	for _, amount := range []struct {
		name  string
		value *apiresource.Quantity
	}{{"capacity", c.Capacity}, {"maximumVolumeSize", c.MaximumVolumeSize}} {
		if amount.value != nil {
			errs = append(errs, validate.NonnegativeQuantity(*amount.value, field.NewPath(amount.name))...)
		}
	}
	return errs
}
