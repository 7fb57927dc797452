package storagemigration

import (
	"strconv"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// storageVersionMigration asks for all objects of a resource to be written again, in the version that is stored now.
var storageVersionMigration = resource.Definition[*storagemigrationv1.StorageVersionMigration]{
	GroupVersion: storagemigrationv1.SchemeGroupVersion, Kind: "StorageVersionMigration", Plural: "storageversionmigrations",
	HasStatus: true, StatusFixes: []string{"metadata"}, AllowUnconditionalUpdate: true, GenerationOf: resource.NoGeneration[*storagemigrationv1.StorageVersionMigration],
	Validate: func(m *storagemigrationv1.StorageVersionMigration) field.ErrorList {
		path := field.NewPath("spec", "resource")
		var errs field.ErrorList
		if m.Spec.Resource.Resource == "" {
			errs = append(errs, field.Required(path.Child("resource"), "resource is required to be set"))
		} else {
			errs = append(errs, validate.Messages(path.Child("resource"), m.Spec.Resource.Resource, validation.IsDNS1035Label(m.Spec.Resource.Resource))...)
		}
		if m.Spec.Resource.Group != "" {
			errs = append(errs, validate.DNSSubdomain(m.Spec.Resource.Group, path.Child("group"))...)
		}
		return errs
	},
	ValidateUpdate: func(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
		return validate.Immutable(m.Spec.Resource, old.Spec.Resource, field.NewPath("spec", "resource"))
	},
	ValidateStatus: func(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
		path := field.NewPath("status")
		errs := metav1validation.ValidateConditions(m.Status.Conditions, path.Child("conditions"))
		if _, err := strconv.ParseUint(m.Status.ResourceVersion, 10, 64); m.Status.ResourceVersion != "" && err != nil {
			errs = append(errs, field.Invalid(path.Child("resourceVersion"), m.Status.ResourceVersion, "resource version is not well formed: "+m.Status.ResourceVersion))
		}
		if old.Status.ResourceVersion != "" {
			errs = append(errs, validate.Immutable(m.Status.ResourceVersion, old.Status.ResourceVersion, path.Child("resourceVersion"))...)
		}
		return errs
	},
	Columns: resource.Columns(resource.Column[*storagemigrationv1.StorageVersionMigration]{
		Name: "Resource", Description: storagemigrationv1.StorageVersionMigrationSpec{}.SwaggerDoc()["resource"],
		Get: func(m *storagemigrationv1.StorageVersionMigration) any {
			return schema.GroupResource{Group: m.Spec.Resource.Group, Resource: m.Spec.Resource.Resource}.String()
		},
	}),
}
