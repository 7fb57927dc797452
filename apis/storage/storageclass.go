package storage

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// storageClass says how volumes are made for claims.
var storageClass = resource.Definition[*storagev1.StorageClass]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "StorageClass", Plural: "storageclasses", ShortNames: []string{"sc"},
	AllowUnconditionalUpdate: true, ReturnDeleted: true,
	Default: func(c *storagev1.StorageClass) {
		resource.SetDefaultPtr(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
		resource.SetDefaultPtr(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
	},
	Validate: validateStorageClass, ValidateUpdate: validateStorageClassUpdate,
	Warn: warnStorageClass,
	Columns: []resource.Column[*storagev1.StorageClass]{
		{
			Name: "Name", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
			Get: func(c *storagev1.StorageClass) any {
				if isDefaultClass(c) {
					return c.Name + " (default)"
				}
				return c.Name
			},
		},
		{Name: "Provisioner", Description: doc("provisioner"), Get: func(c *storagev1.StorageClass) any { return c.Provisioner }},
		{Name: "ReclaimPolicy", Description: doc("reclaimPolicy"), Get: func(c *storagev1.StorageClass) any {
			return string(ptr.Deref(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete))
		}},
		{Name: "VolumeBindingMode", Description: doc("volumeBindingMode"), Get: func(c *storagev1.StorageClass) any {
			return string(ptr.Deref(c.VolumeBindingMode, storagev1.VolumeBindingImmediate))
		}},
		{Name: "AllowVolumeExpansion", Description: doc("allowVolumeExpansion"), Get: func(c *storagev1.StorageClass) any {
			return ptr.Deref(c.AllowVolumeExpansion, false)
		}},
		resource.AgeColumn[*storagev1.StorageClass](),
	},
}

func doc(name string) string { return storagev1.StorageClass{}.SwaggerDoc()[name] }

func isDefaultClass(c *storagev1.StorageClass) bool {
	return c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" ||
		c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
}

const (
	maxParameters     = 512
	maxParametersSize = 256 << 10 // bytes
)

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := validateProvisioner(c.Provisioner, field.NewPath("provisioner"))
	errs = append(errs, validateParameters(c.Parameters, field.NewPath("parameters"))...)
	if policy := ptr.Deref(c.ReclaimPolicy, ""); policy != "" {
		errs = append(errs, validate.OneOf(policy, field.NewPath("reclaimPolicy"),
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	mode := field.NewPath("volumeBindingMode")
	if c.VolumeBindingMode == nil {
		errs = append(errs, field.Required(mode, ""))
	} else {
		errs = append(errs, validate.OneOf(*c.VolumeBindingMode, mode,
			storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

func validateProvisioner(provisioner string, path *field.Path) field.ErrorList {
	if provisioner == "" {
		return field.ErrorList{field.Required(path, provisioner)}
	}
	return validate.QualifiedName(strings.ToLower(provisioner), path)
}

func validateParameters(parameters map[string]string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(parameters) > maxParameters {
		return field.ErrorList{field.TooLong(path, "", maxParameters)}
	}
	size := 0
	for key, value := range parameters {
		if key == "" {
			errs = append(errs, field.Invalid(path, key, "field can not be empty."))
		}
		size += len(key) + len(value)
	}
	if size > maxParametersSize {
		errs = append(errs, field.TooLong(path, "", maxParametersSize))
	}
	return errs
}

func validateTopologies(topologies []corev1.TopologySelectorTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	// Upstream compares with as many empty terms besides, so that a term without expressions is always a duplicate.
	former := make([]map[string]sets.Set[string], len(topologies), 2*len(topologies))
	for i, term := range topologies {
		keys := map[string]sets.Set[string]{}
		expressions := path.Index(i).Child("matchLabelExpressions")
		for j, requirement := range term.MatchLabelExpressions {
			requirementPath := expressions.Index(j)
			values := sets.New[string]()
			if len(requirement.Values) == 0 {
				errs = append(errs, field.Required(requirementPath.Child("values"), ""))
			}
			for k, value := range requirement.Values {
				if values.Has(value) {
					errs = append(errs, field.Duplicate(requirementPath.Child("values").Index(k), value))
				}
				values.Insert(value)
			}
			errs = append(errs, validate.LabelName(requirement.Key, requirementPath.Child("key"))...)
			if _, twice := keys[requirement.Key]; twice {
				errs = append(errs, field.Duplicate(requirementPath.Child("key"), requirement.Key))
			}
			keys[requirement.Key] = values
		}
		for _, other := range former {
			if apiequality.Semantic.DeepEqual(other, keys) {
				errs = append(errs, field.Duplicate(expressions, ""))
			}
		}
		former = append(former, keys)
	}
	return errs
}

func warnStorageClass(c, _ *storagev1.StorageClass) []string {
	var warnings []string
	for i, term := range c.AllowedTopologies {
		for j, requirement := range term.MatchLabelExpressions {
			path := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key")
			warnings = append(warnings, core.WarnNodeLabel(requirement.Key, path)...)
		}
	}
	return warnings
}

func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	errs := append(validateStorageClass(c), validate.Fixed(c.Parameters, old.Parameters, field.NewPath("parameters"))...)
	errs = append(errs, validate.Fixed(c.Provisioner, old.Provisioner, field.NewPath("provisioner"))...)
	errs = append(errs, validate.Fixed(c.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy"))...)
	return append(errs, validate.Fixed(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
}
