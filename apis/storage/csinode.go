package storage

import (
	"slices"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// csiNode lists the volume drivers of a node.
var csiNode = resource.Definition[*storagev1.CSINode]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "CSINode", Plural: "csinodes", HasStatus: true, ReturnDeleted: true,
	GenerationOf: resource.NoGeneration[*storagev1.CSINode],
	Validate:     validateCSINode, ValidateUpdate: validateCSINodeUpdate,
	Columns: resource.Columns(resource.Column[*storagev1.CSINode]{
		Name: "Drivers", Type: "integer", Description: "Drivers indicates the number of CSI drivers registered on the node",
		Get: func(n *storagev1.CSINode) any { return int64(len(n.Spec.Drivers)) },
	}),
}

const maxNodeID = 256

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, driver := range n.Spec.Drivers {
		path := field.NewPath("spec", "drivers").Index(i)
		errs = append(errs, core.ValidateCSIDriverName(driver.Name, path.Child("name"))...)
		if names.Has(driver.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), driver.Name))
		}
		names.Insert(driver.Name)
		switch {
		case driver.NodeID == "":
			errs = append(errs, field.Required(path.Child("nodeID"), driver.NodeID))
		case len(driver.NodeID) > maxNodeID:
			errs = append(errs, field.Invalid(path.Child("nodeID"), driver.NodeID, "must be 256 characters or less"))
		}
		if driver.Allocatable != nil && driver.Allocatable.Count != nil {
			errs = append(errs, validate.Nonnegative(*driver.Allocatable.Count, path.Child("allocatable", "count"))...)
		}
		keys := sets.New[string]()
		for _, key := range driver.TopologyKeys {
			if keys.Has(key) {
				errs = append(errs, field.Duplicate(path, key))
			}
			keys.Insert(key)
			if key == "" {
				errs = append(errs, field.Required(path, key))
			}
			errs = append(errs, validate.QualifiedName(key, path)...)
		}
	}
	return errs
}

// validateCSINodeUpdate lets drivers come and go and change their capacity, but not who they say they are.
func validateCSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	errs := validateCSINode(n)
	for _, driver := range n.Spec.Drivers {
		i := slices.IndexFunc(old.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == driver.Name })
		if i < 0 {
			continue
		}
		former := old.Spec.Drivers[i]
		former.Allocatable = driver.Allocatable
		if !validate.Equal(driver, former) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "drivers"), driver, "field is immutable"))
		}
	}
	return errs
}
