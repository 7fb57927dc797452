package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// volumeAttributesClass names settings of volumes that may be changed later.
var volumeAttributesClass = resource.Definition[*storagev1.VolumeAttributesClass]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "VolumeAttributesClass", Plural: "volumeattributesclasses",
	ShortNames: []string{"vac"}, AllowUnconditionalUpdate: true, ReturnDeleted: true,
	Validate: validateAttributesClass,
	ValidateUpdate: func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
		errs := validateAttributesClass(c)
		if c.DriverName != old.DriverName {
			errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
		}
		if !validate.Equal(c.Parameters, old.Parameters) {
			errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
		}
		return errs
	},
	Columns: resource.Columns(resource.Column[*storagev1.VolumeAttributesClass]{
		Name: "DriverName", Description: storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"],
		Get: func(c *storagev1.VolumeAttributesClass) any { return c.DriverName },
	}),
}

func validateAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := validateProvisioner(c.DriverName, field.NewPath("driverName"))
	if len(c.Parameters) == 0 {
		return append(errs, field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
	}
	return append(errs, validateParameters(c.Parameters, field.NewPath("parameters"))...)
}
