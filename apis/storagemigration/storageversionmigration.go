package storagemigration

import (
	"strconv"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	Validate: validateMigration,
	ValidateUpdate: func(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
		return append(validateMigration(m), validate.Immutable(m.Spec, old.Spec, field.NewPath("spec"))...)
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
	Columns: []resource.Column[*storagemigrationv1.StorageVersionMigration]{
		{Name: "Name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"], Get: func(m *storagemigrationv1.StorageVersionMigration) any { return m.Name }},
		{Name: "Resource", Description: "GroupResource to migrate", Get: func(m *storagemigrationv1.StorageVersionMigration) any {
			return schema.GroupResource{Group: m.Spec.Resource.Group, Resource: m.Spec.Resource.Resource}.String()
		}},
		{Name: "Status", Description: "Status of the migration", Get: func(m *storagemigrationv1.StorageVersionMigration) any { return migrationStatus(m) }},
	},
}

// migrationStatus is the last of the conditions that hold.
func migrationStatus(m *storagemigrationv1.StorageVersionMigration) string {
	status := "Unknown"
	for _, c := range m.Status.Conditions {
		switch storagemigrationv1.MigrationConditionType(c.Type) {
		case storagemigrationv1.MigrationRunning, storagemigrationv1.MigrationFailed, storagemigrationv1.MigrationSucceeded:
			if c.Status == metav1.ConditionTrue {
				status = c.Type
			}
		}
	}
	return status
}

func validateMigration(m *storagemigrationv1.StorageVersionMigration) field.ErrorList {
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
}
