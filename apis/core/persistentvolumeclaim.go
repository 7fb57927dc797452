package core

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
	"keelson.dev/internal/features"
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
		dropDataSources(pvc, old)
		syncDataSources(&pvc.Spec)
	},
	PrepareStatus: func(pvc, _ *corev1.PersistentVolumeClaim) {
		if !features.Enabled("CSIVolumeHealth") {
			pvc.Status.HealthStatus = nil
		}
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

// dropDataSources drops a source in another namespace, which is alpha, and what old clients have always seen ignored: a dataSource,
// where nothing says dataSourceRef yet, that is neither a claim nor a snapshot (KEP-1495).
func dropDataSources(pvc, old *corev1.PersistentVolumeClaim) {
	spec := &pvc.Spec
	hadRef := old != nil && old.Spec.DataSourceRef != nil
	if spec.DataSourceRef != nil && ptr.Deref(spec.DataSourceRef.Namespace, "") != "" && !hadRef && !features.Enabled("CrossNamespaceVolumeDataSource") {
		spec.DataSourceRef = nil
	}
	if spec.DataSourceRef != nil || spec.DataSource == nil || hadRef || old != nil && old.Spec.DataSource != nil {
		return
	}
	switch (schema.GroupKind{Group: ptr.Deref(spec.DataSource.APIGroup, ""), Kind: spec.DataSource.Kind}) {
	case schema.GroupKind{Kind: "PersistentVolumeClaim"}, schema.GroupKind{Group: "snapshot.storage.k8s.io", Kind: "VolumeSnapshot"}:
	default:
		spec.DataSource = nil
	}
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
	return validateClaimSpec(spec, path, false)
}

func validateClaimSpec(spec *corev1.PersistentVolumeClaimSpec, path *field.Path, anyGroup bool) field.ErrorList {
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
	return append(errs, validateDataSources(spec, path, anyGroup)...)
}

// validateDataSources checks where the data come from; anyGroup leaves the format of API groups unchecked.
func validateDataSources(spec *corev1.PersistentVolumeClaimSpec, path *field.Path, anyGroup bool) field.ErrorList {
	var errs field.ErrorList
	source, ref := spec.DataSource, spec.DataSourceRef
	if source != nil {
		errs = append(errs, validateDataSource(source.APIGroup, source.Kind, source.Name, path.Child("dataSource"), anyGroup)...)
	}
	if ref == nil {
		return errs
	}
	errs = append(errs, validateDataSource(ref.APIGroup, ref.Kind, ref.Name, path.Child("dataSourceRef"), anyGroup)...)
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

func validateDataSource(group *string, kind, name string, path *field.Path, anyGroup bool) field.ErrorList {
	errs := requireStrings(path, pair{"name", name}, pair{"kind", kind})
	switch apiGroup := ptr.Deref(group, ""); {
	case apiGroup != "" && anyGroup:
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
	hadGroup := old.Spec.DataSource != nil && old.Spec.DataSource.APIGroup != nil || old.Spec.DataSourceRef != nil && old.Spec.DataSourceRef.APIGroup != nil
	errs := validateClaimSpec(&pvc.Spec, path, hadGroup)
	before, now := old.Spec.DeepCopy(), pvc.Spec.DeepCopy()
	syncDataSources(before)
	if before.VolumeName == "" {
		before.VolumeName = now.VolumeName // binding happens once
	}
	if mayGetClass(pvc, old) {
		now.StorageClassName = nil
	}
	size, oldSize := pvc.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if pvc.Status.Phase == corev1.ClaimBound {
		now.VolumeAttributesClassName = before.VolumeAttributesClassName
		if now.Resources.Requests != nil {
			now.Resources.Requests[corev1.ResourceStorage] = oldSize
		}
	}
	if !validate.Equal(now, before) {
		errs = append(errs, field.Forbidden(path, fmt.Sprintf(
			"spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(before, now))))
	}
	if status := old.Status.Capacity[corev1.ResourceStorage]; size.Cmp(oldSize) < 0 && size.Cmp(status) <= 0 {
		errs = append(errs, field.Forbidden(path.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, validate.Immutable(pvc.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Status.CurrentVolumeAttributesClassName == nil || ptr.Deref(pvc.Spec.VolumeAttributesClassName, "") != "" {
		return errs
	}
	what := "nil"
	if pvc.Spec.VolumeAttributesClassName != nil {
		what = "empty string"
	}
	return append(errs, field.Forbidden(path.Child("volumeAttributesClassName"),
		"update to "+what+" is forbidden when status.currentVolumeAttributesClassName is not nil"))
}

// mayGetClass tells whether a claim without a class gets one: a default class that came later, or the one of the old annotation.
func mayGetClass(pvc, old *corev1.PersistentVolumeClaim) bool {
	class, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
	return old.Spec.StorageClassName == nil && pvc.Spec.StorageClassName != nil && (!annotated || class == *pvc.Spec.StorageClassName)
}

func validatePersistentVolumeClaimStatus(pvc, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	path := field.NewPath("status")
	errs := claimQuantities(pvc.Status.Capacity, path.Child("capacity"))
	statuses := path.Child("allocatedResourceStatuses")
	for _, name := range slices.Sorted(maps.Keys(pvc.Status.AllocatedResourceStatuses)) {
		errs = append(errs, claimResource(name, statuses)...)
		supported := []corev1.ClaimResourceStatus{
			corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
			corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending,
		}
		if !slices.Contains(supported, pvc.Status.AllocatedResourceStatuses[name]) {
			errs = append(errs, field.NotSupported(statuses, name, supported)) // the name, as clients have always been told
		}
	}
	allocated := path.Child("allocatedResources")
	for _, name := range validate.SortedNames(pvc.Status.AllocatedResources) {
		if invalid := claimResource(name, allocated); len(invalid) > 0 {
			errs = append(errs, invalid...)
			continue
		}
		errs = append(errs, claimQuantities(corev1.ResourceList{name: pvc.Status.AllocatedResources[name]}, allocated)...)
	}
	return errs
}

func claimQuantities(list corev1.ResourceList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range validate.SortedNames(list) {
		if quantity := list[name]; quantity.Value() < 0 {
			errs = append(errs, field.Invalid(path.Key(string(name)), quantity.Value(), "must be a valid resource quantity"))
		}
	}
	return errs
}

// claimResource knows one native resource of a volume, its storage; others have a domain.
func claimResource(name corev1.ResourceName, path *field.Path) field.ErrorList {
	errs := validate.QualifiedName(string(name), path)
	if len(errs) == 0 && validate.IsNative(name) && name != corev1.ResourceStorage {
		errs = append(errs, field.NotSupported(path, name, []corev1.ResourceName{corev1.ResourceStorage}))
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
