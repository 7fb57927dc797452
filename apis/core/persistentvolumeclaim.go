package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// persistentVolumeClaim asks for a volume.
var persistentVolumeClaim = resource.Definition[*corev1.PersistentVolumeClaim]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "PersistentVolumeClaim", Plural: "persistentvolumeclaims",
	ShortNames: []string{"pvc"}, Namespaced: true, HasStatus: true, GenerationOf: resource.NoGeneration[*corev1.PersistentVolumeClaim],
	AllowUnconditionalUpdate: true, ReturnDeleted: true,
	Default: defaultPersistentVolumeClaim,
	Prepare: func(pvc, old *corev1.PersistentVolumeClaim) {
		if old == nil {
			pvc.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
		}
		if ref := pvc.Spec.DataSourceRef; ref != nil && (old == nil || old.Spec.DataSourceRef == nil || old.Spec.DataSourceRef.Namespace == nil) {
			ref.Namespace = nil // CrossNamespaceVolumeDataSource is alpha
		}
		syncDataSources(&pvc.Spec)
	},
	Validate: func(pvc *corev1.PersistentVolumeClaim) field.ErrorList {
		return ValidatePersistentVolumeClaimSpec(&pvc.Spec, field.NewPath("spec"))
	},
	Warn:           warnPersistentVolumeClaim,
	ValidateUpdate: validatePersistentVolumeClaimUpdate, ValidateStatus: validatePersistentVolumeClaimStatus,
	Columns: []resource.Column[*corev1.PersistentVolumeClaim]{
		resource.NameColumn[*corev1.PersistentVolumeClaim](),
		{Name: "Status", Description: pvcStatusDoc("phase"), Get: func(pvc *corev1.PersistentVolumeClaim) any {
			if pvc.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(pvc.Status.Phase)
		}},
		{Name: "Volume", Description: pvcDoc("volumeName"), Get: func(pvc *corev1.PersistentVolumeClaim) any { return pvc.Spec.VolumeName }},
		{Name: "Capacity", Description: pvcStatusDoc("capacity"), Get: ifBound(func(pvc *corev1.PersistentVolumeClaim) string {
			return storageOf(pvc.Status.Capacity)
		})},
		{Name: "Access Modes", Description: pvcStatusDoc("accessModes"), Get: ifBound(func(pvc *corev1.PersistentVolumeClaim) string {
			return printAccessModes(pvc.Status.AccessModes)
		})},
		{Name: "StorageClass", Description: "StorageClass of the pvc", Get: func(pvc *corev1.PersistentVolumeClaim) any {
			if class, annotated := pvc.Annotations[corev1.BetaStorageClassAnnotation]; annotated {
				return class
			}
			return ptr.Deref(pvc.Spec.StorageClassName, "")
		}},
		{Name: "VolumeAttributesClass", Description: "VolumeAttributesClass of the pvc", Get: func(pvc *corev1.PersistentVolumeClaim) any {
			return ptr.Deref(pvc.Spec.VolumeAttributesClassName, unset)
		}},
		resource.AgeColumn[*corev1.PersistentVolumeClaim](),
		{Name: "VolumeMode", Priority: 1, Description: pvcDoc("volumeMode"), Get: func(pvc *corev1.PersistentVolumeClaim) any {
			return string(ptr.Deref(pvc.Spec.VolumeMode, unset))
		}},
	},
}

func pvcDoc(name string) string { return corev1.PersistentVolumeClaimSpec{}.SwaggerDoc()[name] }

func pvcStatusDoc(name string) string { return corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()[name] }

func ifBound(get func(*corev1.PersistentVolumeClaim) string) func(*corev1.PersistentVolumeClaim) any {
	return func(pvc *corev1.PersistentVolumeClaim) any {
		if pvc.Spec.VolumeName == "" {
			return ""
		}
		return get(pvc)
	}
}

func defaultPersistentVolumeClaim(pvc *corev1.PersistentVolumeClaim) {
	DefaultVolumeClaimSpec(&pvc.Spec)
	resource.SetDefault(&pvc.Status.Phase, corev1.ClaimPending)
	roundUp(pvc.Status.Capacity, pvc.Status.AllocatedResources)
}

// syncDataSources keeps dataSource and its successor dataSourceRef the same, unless a namespace says what dataSource cannot.
func syncDataSources(spec *corev1.PersistentVolumeClaimSpec) {
	switch {
	case spec.DataSource != nil && spec.DataSourceRef == nil:
		spec.DataSourceRef = &corev1.TypedObjectReference{
			APIGroup: spec.DataSource.APIGroup, Kind: spec.DataSource.Kind, Name: spec.DataSource.Name,
		}
	case spec.DataSource == nil && spec.DataSourceRef != nil && ptr.Deref(spec.DataSourceRef.Namespace, "") == "":
		spec.DataSource = &corev1.TypedLocalObjectReference{
			APIGroup: spec.DataSourceRef.APIGroup, Kind: spec.DataSourceRef.Kind, Name: spec.DataSourceRef.Name,
		}
	}
}

// ValidatePersistentVolumeClaimSpec checks a claim, or a template of one.
func ValidatePersistentVolumeClaimSpec(spec *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	errs := validateAccessModes(spec.AccessModes, path.Child("accessModes"), "at least 1 access mode is required")
	errs = append(errs, validate.LabelSelector(spec.Selector, path.Child("selector"))...)
	storagePath := path.Child("resources").Key(string(corev1.ResourceStorage))
	if storage, found := spec.Resources.Requests[corev1.ResourceStorage]; found {
		errs = append(errs, validate.PositiveQuantity(storage, storagePath)...)
	} else {
		errs = append(errs, field.Required(storagePath, ""))
	}
	for _, class := range []pair{
		{"storageClassName", ptr.Deref(spec.StorageClassName, "")},
		{"volumeAttributesClassName", ptr.Deref(spec.VolumeAttributesClassName, "")},
	} {
		if class.value != "" {
			errs = append(errs, validate.ObjectName(class.value, path.Child(class.name), apivalidation.NameIsDNSSubdomain)...)
		}
	}
	errs = append(errs, validate.OptionalOneOf(spec.VolumeMode, path.Child("volumeMode"),
		corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	return append(errs, validateDataSources(spec, path)...)
}

func validateDataSources(spec *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	source, ref := spec.DataSource, spec.DataSourceRef
	if source != nil {
		errs = append(errs, validateDataSource(source.APIGroup, source.Kind, source.Name, path.Child("dataSource"))...)
	}
	if ref == nil {
		return errs
	}
	errs = append(errs, validateDataSource(ref.APIGroup, ref.Kind, ref.Name, path.Child("dataSourceRef"))...)
	namespace := ptr.Deref(ref.Namespace, "")
	if namespace != "" {
		errs = append(errs, validate.DNSLabel(namespace, path.Child("dataSourceRef", "namespace"))...)
	}
	switch {
	case source == nil:
	case namespace != "":
		errs = append(errs, field.Invalid(path, path.Child("dataSource"),
			"may not be specified when dataSourceRef.namespace is specified"))
	case !ptr.Equal(source.APIGroup, ref.APIGroup) || source.Kind != ref.Kind || source.Name != ref.Name:
		errs = append(errs, field.Invalid(path, path.Child("dataSource"), "must match dataSourceRef"))
	}
	return errs
}

func validateDataSource(group *string, kind, name string, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"name", name}, pair{"kind", kind})
	switch apiGroup := ptr.Deref(group, ""); {
	case apiGroup != "":
		errs = append(errs, validate.DNSSubdomain(apiGroup, path.Child("apiGroup"))...)
	case kind != "PersistentVolumeClaim":
		errs = append(errs, field.Invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
	}
	return errs
}

// validatePersistentVolumeClaimUpdate freezes the spec: quota and scheduling rely on it. A bound claim may ask for more space.
func validatePersistentVolumeClaimUpdate(pvc, old *corev1.PersistentVolumeClaim) field.ErrorList {
	path := field.NewPath("spec")
	errs := ValidatePersistentVolumeClaimSpec(&pvc.Spec, path)
	expected := old.Spec.DeepCopy()
	if expected.VolumeName == "" {
		expected.VolumeName = pvc.Spec.VolumeName // binding happens once
	}
	if expected.StorageClassName == nil && (old.Spec.VolumeName == "" || hasAnnotatedClass(old, pvc)) {
		expected.StorageClassName = pvc.Spec.StorageClassName // a default class may come later
	}
	expected.VolumeAttributesClassName = pvc.Spec.VolumeAttributesClassName
	size, resized := pvc.Spec.Resources.Requests[corev1.ResourceStorage]
	oldSize := old.Spec.Resources.Requests[corev1.ResourceStorage]
	if resized && pvc.Status.Phase == corev1.ClaimBound && expected.Resources.Requests != nil {
		expected.Resources.Requests[corev1.ResourceStorage] = size
	}
	if !validate.Equal(pvc.Spec, *expected) {
		errs = append(errs, field.Forbidden(path,
			"spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"))
	}
	if status := old.Status.Capacity[corev1.ResourceStorage]; size.Cmp(oldSize) < 0 && size.Cmp(status) <= 0 {
		errs = append(errs, field.Forbidden(path.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, validate.Immutable(pvc.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Spec.VolumeAttributesClassName != nil && pvc.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(path.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// hasAnnotatedClass tells whether the class moves from the old annotation to the field.
func hasAnnotatedClass(old, pvc *corev1.PersistentVolumeClaim) bool {
	class, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
	return annotated && class == ptr.Deref(pvc.Spec.StorageClassName, "")
}

func validatePersistentVolumeClaimStatus(pvc, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status")
	for _, name := range validate.SortedNames(pvc.Status.Capacity) {
		errs = append(errs, validate.NonnegativeQuantity(pvc.Status.Capacity[name], path.Child("capacity").Key(string(name)))...)
	}
	for _, name := range validate.SortedNames(pvc.Status.AllocatedResources) {
		key := path.Child("allocatedResources").Key(string(name))
		if name != corev1.ResourceStorage && !validate.IsExtended(name) {
			errs = append(errs, field.NotSupported(path.Child("allocatedResources"), string(name),
				[]string{string(corev1.ResourceStorage), fmt.Sprintf("a prefixed name %s", "example.com/resource")}))
		}
		errs = append(errs, validate.NonnegativeQuantity(pvc.Status.AllocatedResources[name], key)...)
	}
	return errs
}

func warnPersistentVolumeClaim(pvc, _ *corev1.PersistentVolumeClaim) []string {
	var warnings []string
	if _, annotated := pvc.Annotations[corev1.BetaStorageClassAnnotation]; annotated {
		warnings = append(warnings, fmt.Sprintf("metadata.annotations[%s]: deprecated since v1.8; use \"storageClassName\" attribute instead",
			corev1.BetaStorageClassAnnotation))
	}
	return append(warnings, VolumeClaimWarnings(&pvc.Spec, field.NewPath("spec"))...)
}

// VolumeClaimWarnings tells of parts of a byte that a claim, or the template of one, asks for.
func VolumeClaimWarnings(spec *corev1.PersistentVolumeClaimSpec, path *field.Path) []string {
	w := &warner{}
	w.fraction(spec.Resources.Requests, corev1.ResourceStorage, path.Child("resources", "requests"))
	w.fraction(spec.Resources.Limits, corev1.ResourceStorage, path.Child("resources", "limits"))
	return w.warnings
}
