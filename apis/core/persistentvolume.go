package core

import (
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// persistentVolume is storage that outlives pods.
var persistentVolume = resource.Definition[*corev1.PersistentVolume]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "PersistentVolume", Plural: "persistentvolumes", ShortNames: []string{"pv"},
	HasStatus: true, GenerationOf: resource.NoGeneration[*corev1.PersistentVolume],
	AllowUnconditionalUpdate: true, ReturnDeleted: true,
	Default: defaultPersistentVolume,
	Prepare: func(pv, old *corev1.PersistentVolume) {
		if old == nil {
			pv.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending}
		}
	},
	Validate: validatePersistentVolume, ValidateUpdate: validatePersistentVolumeUpdate,
	Warn: warnPersistentVolume,
	Columns: []resource.Column[*corev1.PersistentVolume]{
		resource.NameColumn[*corev1.PersistentVolume](),
		{Name: "Capacity", Description: pvDoc("capacity"), Get: func(pv *corev1.PersistentVolume) any { return storageOf(pv.Spec.Capacity) }},
		{Name: "Access Modes", Description: pvDoc("accessModes"), Get: func(pv *corev1.PersistentVolume) any {
			return printAccessModes(pv.Spec.AccessModes)
		}},
		{Name: "Reclaim Policy", Description: pvDoc("persistentVolumeReclaimPolicy"), Get: func(pv *corev1.PersistentVolume) any {
			return string(pv.Spec.PersistentVolumeReclaimPolicy)
		}},
		{Name: "Status", Description: corev1.PersistentVolumeStatus{}.SwaggerDoc()["phase"], Get: func(pv *corev1.PersistentVolume) any {
			if pv.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(pv.Status.Phase)
		}},
		{Name: "Claim", Description: pvDoc("claimRef"), Get: func(pv *corev1.PersistentVolume) any {
			if pv.Spec.ClaimRef == nil {
				return ""
			}
			return pv.Spec.ClaimRef.Namespace + "/" + pv.Spec.ClaimRef.Name
		}},
		{Name: "StorageClass", Description: "StorageClass of the pv", Get: func(pv *corev1.PersistentVolume) any {
			if class, annotated := pv.Annotations[corev1.BetaStorageClassAnnotation]; annotated {
				return class
			}
			return pv.Spec.StorageClassName
		}},
		{Name: "VolumeAttributesClass", Description: "VolumeAttributesClass of the pv", Get: func(pv *corev1.PersistentVolume) any {
			return ptr.Deref(pv.Spec.VolumeAttributesClassName, unset)
		}},
		{Name: "Reason", Description: corev1.PersistentVolumeStatus{}.SwaggerDoc()["reason"], Get: func(pv *corev1.PersistentVolume) any {
			return pv.Status.Reason
		}},
		resource.AgeColumn[*corev1.PersistentVolume](),
		{Name: "VolumeMode", Priority: 1, Description: pvDoc("volumeMode"), Get: func(pv *corev1.PersistentVolume) any {
			return string(ptr.Deref(pv.Spec.VolumeMode, unset))
		}},
	},
}

const unset = "<unset>"

func pvDoc(name string) string { return corev1.PersistentVolumeSpec{}.SwaggerDoc()[name] }

func storageOf(list corev1.ResourceList) string {
	quantity := list[corev1.ResourceStorage]
	return quantity.String()
}

// printAccessModes lists the modes by their short names, in a fixed order.
func printAccessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, mode := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{
		{corev1.ReadWriteOnce, "RWO"},
		{corev1.ReadOnlyMany, "ROX"},
		{corev1.ReadWriteMany, "RWX"},
		{corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, mode.mode) {
			short = append(short, mode.short)
		}
	}
	return strings.Join(short, ",")
}

func defaultPersistentVolume(pv *corev1.PersistentVolume) {
	resource.SetDefault(&pv.Status.Phase, corev1.VolumePending)
	spec := &pv.Spec
	resource.SetDefault(&spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	resource.SetDefaultPtr(&spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(spec.Capacity)
	if spec.HostPath != nil {
		resource.SetDefaultPtr(&spec.HostPath.Type, corev1.HostPathUnset)
	}
	if spec.ISCSI != nil {
		resource.SetDefault(&spec.ISCSI.ISCSIInterface, "default")
	}
	if rbd := spec.RBD; rbd != nil {
		resource.SetDefault(&rbd.RBDPool, "rbd")
		resource.SetDefault(&rbd.RadosUser, "admin")
		resource.SetDefault(&rbd.Keyring, "/etc/ceph/keyring")
	}
	if disk := spec.AzureDisk; disk != nil {
		resource.SetDefaultPtr(&disk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		resource.SetDefaultPtr(&disk.Kind, corev1.AzureSharedBlobDisk)
		resource.SetDefaultPtr(&disk.FSType, "ext4")
		resource.SetDefaultPtr(&disk.ReadOnly, false)
	}
	if scaleIO := spec.ScaleIO; scaleIO != nil {
		resource.SetDefault(&scaleIO.StorageMode, "ThinProvisioned")
		resource.SetDefault(&scaleIO.FSType, "xfs")
	}
}

func validatePersistentVolume(pv *corev1.PersistentVolume) field.ErrorList {
	spec, specPath := &pv.Spec, field.NewPath("spec")
	errs := validateAccessModes(spec.AccessModes, specPath.Child("accessModes"), "")
	capacity := specPath.Child("capacity")
	if len(spec.Capacity) == 0 {
		errs = append(errs, field.Required(capacity, ""))
	}
	if _, found := spec.Capacity[corev1.ResourceStorage]; !found || len(spec.Capacity) > 1 {
		errs = append(errs, field.NotSupported(capacity, spec.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range validate.SortedNames(spec.Capacity) {
		errs = append(errs, validate.PositiveQuantity(spec.Capacity[name], capacity.Key(string(name)))...)
	}
	if spec.PersistentVolumeReclaimPolicy != "" {
		errs = append(errs, validate.OneOf(spec.PersistentVolumeReclaimPolicy, specPath.Child("persistentVolumeReclaimPolicy"),
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	if spec.NodeAffinity != nil {
		affinity := specPath.Child("nodeAffinity")
		if spec.NodeAffinity.Required == nil {
			errs = append(errs, field.Required(affinity.Child("required"), "must specify required node constraints"))
		} else {
			errs = append(errs, validate.NodeSelector(spec.NodeAffinity.Required, affinity.Child("required"))...)
		}
	}
	errs = append(errs, validatePersistentVolumeSource(spec, specPath)...)
	if spec.StorageClassName != "" {
		errs = append(errs, validate.ObjectName(spec.StorageClassName, specPath.Child("storageClassName"), apivalidation.NameIsDNSSubdomain)...)
	}
	errs = append(errs, validate.OptionalOneOf(spec.VolumeMode, specPath.Child("volumeMode"),
		corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	if class := ptr.Deref(spec.VolumeAttributesClassName, ""); class != "" {
		classPath := specPath.Child("volumeAttributesClassName")
		errs = append(errs, validate.ObjectName(class, classPath, apivalidation.NameIsDNSSubdomain)...)
		if spec.CSI == nil {
			errs = append(errs, field.Required(specPath.Child("csi"), "has to be specified when using volumeAttributesClassName"))
		}
	}
	return errs
}

// validateAccessModes also serves claims, whose message for none differs.
func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, path *field.Path, none string) field.ErrorList {
	var errs field.ErrorList
	if len(modes) == 0 {
		errs = append(errs, field.Required(path, none))
	}
	for _, mode := range modes {
		errs = append(errs, validate.OneOf(mode, path,
			corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
	}
	if slices.Contains(modes, corev1.ReadWriteOncePod) && len(sets.New(modes...)) > 1 {
		errs = append(errs, field.Forbidden(path, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// validatePersistentVolumeSource demands exactly one source. Legacy drivers whose source is not that of pods are stored for their
// CSI successors, which check them.
func validatePersistentVolumeSource(spec *corev1.PersistentVolumeSpec, specPath *field.Path) field.ErrorList {
	var errs field.ErrorList
	sources := setSources(&spec.PersistentVolumeSource)
	if len(sources) == 0 {
		return field.ErrorList{field.Required(specPath, "must specify a volume type")}
	}
	for _, name := range sources[1:] {
		errs = append(errs, field.Forbidden(specPath.Child(name), "may not specify more than 1 volume type"))
	}
	if len(errs) > 0 {
		return errs
	}
	switch sourcePath := specPath.Child(sources[0]); {
	case spec.HostPath != nil:
		errs = validateHostPathSource(spec.HostPath, sourcePath)
		if path.Clean(spec.HostPath.Path) == "/" && spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
			errs = append(errs, field.Forbidden(specPath.Child("persistentVolumeReclaimPolicy"),
				"may not be 'recycle' for a hostPath mount of '/'"))
		}
	case spec.Local != nil:
		errs = validateLocalSource(spec, sourcePath)
	case spec.CSI != nil:
		errs = validateCSISource(spec.CSI, sourcePath)
	case spec.ISCSI != nil:
		errs = validateISCSI(spec.ISCSI.TargetPortal, spec.ISCSI.IQN, spec.ISCSI.InitiatorName, spec.ISCSI.Lun,
			(spec.ISCSI.DiscoveryCHAPAuth || spec.ISCSI.SessionCHAPAuth) && spec.ISCSI.SecretRef == nil, sourcePath)
	case spec.FlexVolume != nil:
		errs = validateFlexOptions(spec.FlexVolume.Driver, spec.FlexVolume.Options, sourcePath)
	default:
		for _, source := range networkSources(&corev1.VolumeSource{ // the drivers whose source is that of pods
			NFS: spec.NFS, FC: spec.FC, Flocker: spec.Flocker, Quobyte: spec.Quobyte, AzureDisk: spec.AzureDisk,
			GCEPersistentDisk: spec.GCEPersistentDisk, AWSElasticBlockStore: spec.AWSElasticBlockStore, VsphereVolume: spec.VsphereVolume,
			PhotonPersistentDisk: spec.PhotonPersistentDisk, PortworxVolume: spec.PortworxVolume,
		}) {
			if source.set {
				errs = source.check(sourcePath)
			}
		}
	}
	return errs
}

// setSources lists the JSON names of the set sources.
func setSources(source *corev1.PersistentVolumeSource) []string {
	var names []string
	value := reflect.ValueOf(source).Elem()
	for i := range value.NumField() {
		if !value.Field(i).IsNil() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

type pair struct{ name, value string }

func requireStrings(path *field.Path, pairs ...pair) field.ErrorList {
	var errs field.ErrorList
	for _, p := range pairs {
		if p.value == "" {
			errs = append(errs, field.Required(path.Child(p.name), ""))
		}
	}
	return errs
}

func validateHostPathSource(source *corev1.HostPathVolumeSource, path *field.Path) field.ErrorList {
	if source.Path == "" {
		return field.ErrorList{field.Required(path.Child("path"), "")}
	}
	errs := validate.NoBacksteps(source.Path, path.Child("path"))
	return append(errs, validate.OptionalOneOf(source.Type, path.Child("type"), corev1.HostPathUnset, corev1.HostPathBlockDev,
		corev1.HostPathCharDev, corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile,
		corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
}

func validateLocalSource(spec *corev1.PersistentVolumeSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.Local.Path == "" {
		errs = append(errs, field.Required(path.Child("path"), ""))
	} else {
		errs = append(errs, validate.NoBacksteps(spec.Local.Path, path.Child("path"))...)
	}
	if spec.NodeAffinity == nil {
		errs = append(errs, field.Required(field.NewPath("metadata", "annotations"), "Local volume requires node affinity"))
	}
	return errs
}

func validateCSISource(source *corev1.CSIPersistentVolumeSource, path *field.Path) field.ErrorList {
	errs := ValidateCSIDriverName(source.Driver, path.Child("driver"))
	errs = append(errs, requireStrings(path, pair{"volumeHandle", source.VolumeHandle})...)
	for name, ref := range map[string]*corev1.SecretReference{
		"controllerPublishSecretRef": source.ControllerPublishSecretRef, "nodePublishSecretRef": source.NodePublishSecretRef,
		"controllerExpandSecretRef": source.ControllerExpandSecretRef, "nodeExpandSecretRef": source.NodeExpandSecretRef,
	} {
		if ref != nil {
			errs = append(errs, requireStrings(path.Child(name), pair{"name", ref.Name}, pair{"namespace", ref.Namespace})...)
		}
	}
	slices.SortStableFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	return errs
}

// ValidateCSIDriverName checks the name of a CSI driver; storage rows and pod volumes use it too.
func ValidateCSIDriverName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > maxCSIDriverName {
		errs = append(errs, field.TooLong(path, "", maxCSIDriverName))
	}
	return append(errs, validate.DNSSubdomain(strings.ToLower(name), path)...)
}

const maxCSIDriverName = 63

func validatePersistentVolumeUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	errs := validatePersistentVolume(pv)
	specPath := field.NewPath("spec")
	source, oldSource := pv.Spec.PersistentVolumeSource, *old.Spec.PersistentVolumeSource.DeepCopy()
	if source.CSI != nil && oldSource.CSI != nil && oldSource.CSI.ControllerExpandSecretRef == nil {
		oldSource.CSI.ControllerExpandSecretRef = source.CSI.ControllerExpandSecretRef // may be added later
	}
	if !validate.Equal(source, oldSource) {
		errs = append(errs, field.Forbidden(specPath.Child("persistentvolumesource"),
			"spec.persistentvolumesource is immutable after creation"))
	}
	errs = append(errs, validate.Immutable(pv.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Spec.NodeAffinity != nil {
		errs = append(errs, validate.Immutable(pv.Spec.NodeAffinity, old.Spec.NodeAffinity, field.NewPath("nodeAffinity"))...)
	}
	if old.Spec.VolumeAttributesClassName != nil && pv.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(specPath.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

func warnPersistentVolume(pv, _ *corev1.PersistentVolume) []string {
	var warnings []string
	if _, annotated := pv.Annotations[corev1.BetaStorageClassAnnotation]; annotated {
		warnings = append(warnings, fmt.Sprintf("metadata.annotations[%s]: deprecated since v1.8; use \"storageClassName\" attribute instead",
			corev1.BetaStorageClassAnnotation))
	}
	if pv.Spec.NodeAffinity != nil {
		warnings = append(warnings, warnNodeSelector(pv.Spec.NodeAffinity.Required, field.NewPath("spec", "nodeAffinity", "required"))...)
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		warnings = append(warnings, "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. "+
			"Instead, the recommended approach is to use dynamic provisioning.")
	}
	return warnings
}
