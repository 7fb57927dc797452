package core

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
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
			pv.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: new(metav1.Now())}
		}
	},
	PrepareStatus: func(pv, old *corev1.PersistentVolume) {
		at, former := pv.Status.LastPhaseTransitionTime, old.Status.LastPhaseTransitionTime
		switch same := pv.Status.Phase == old.Status.Phase; {
		case same && at == nil:
			pv.Status.LastPhaseTransitionTime = former
		case !same && (at == nil || at.Equal(former)):
			pv.Status.LastPhaseTransitionTime = new(metav1.Now())
		}
	},
	ValidateStatus: func(pv, _ *corev1.PersistentVolume) field.ErrorList {
		return requireStrings(nil, pair{"resourceVersion", pv.ResourceVersion})
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
		quantity, at := spec.Capacity[name], capacity.Key(string(name))
		if quantity.Value() < 0 {
			errs = append(errs, field.Invalid(at, quantity.Value(), "must be a valid resource quantity"))
		}
		errs = append(errs, validate.PositiveQuantity(quantity, at)...)
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
	errs = append(errs, validatePersistentVolumeSource(pv, specPath)...)
	if spec.StorageClassName != "" {
		errs = append(errs, validate.ObjectName(spec.StorageClassName, specPath.Child("storageClassName"), apivalidation.NameIsDNSSubdomain)...)
	}
	errs = append(errs, validate.OptionalOneOf(spec.VolumeMode, specPath.Child("volumeMode"),
		corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	if class := spec.VolumeAttributesClassName; class != nil {
		classPath := specPath.Child("volumeAttributesClassName")
		if *class == "" {
			errs = append(errs, field.Required(classPath, "an empty string is disallowed"))
		} else {
			errs = append(errs, validate.ObjectName(*class, classPath, apivalidation.NameIsDNSSubdomain)...)
		}
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

// validatePersistentVolumeSource demands exactly one source.
func validatePersistentVolumeSource(pv *corev1.PersistentVolume, specPath *field.Path) field.ErrorList {
	spec := &pv.Spec
	errs := checkSources(persistentSources(pv), specPath)
	if spec.Local != nil && setSource(persistentSources(pv)) == "local" && spec.NodeAffinity == nil {
		errs = append(errs, field.Required(specPath.Child("nodeAffinity"), "Local volume requires node affinity"))
	}
	if spec.HostPath != nil && path.Clean(spec.HostPath.Path) == "/" && spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(specPath.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	return errs
}

// persistentSources lists the sources of persistent volumes in the order in which the first one found counts as the one. Most
// are those of pods; the secrets of the others have a namespace.
func persistentSources(pv *corev1.PersistentVolume) []sourceCheck {
	spec := &pv.Spec
	pods := networkSources(&corev1.VolumeSource{
		NFS: spec.NFS, FC: spec.FC, Flocker: spec.Flocker, Quobyte: spec.Quobyte, AzureDisk: spec.AzureDisk,
		GCEPersistentDisk: spec.GCEPersistentDisk, AWSElasticBlockStore: spec.AWSElasticBlockStore, VsphereVolume: spec.VsphereVolume,
		PhotonPersistentDisk: spec.PhotonPersistentDisk, PortworxVolume: spec.PortworxVolume,
	})
	return []sourceCheck{
		{name: "hostPath", set: spec.HostPath != nil, check: func(at *field.Path) field.ErrorList { return validateHostPathSource(spec.HostPath, at) }},
		pods["gcePersistentDisk"], pods["awsElasticBlockStore"],
		{name: "glusterfs", set: spec.Glusterfs != nil, check: func(at *field.Path) field.ErrorList { return validateGlusterfs(spec.Glusterfs, at) }},
		pods["flocker"], pods["nfs"],
		{name: "rbd", set: spec.RBD != nil, check: func(at *field.Path) field.ErrorList {
			return append(requireList(len(spec.RBD.CephMonitors), at.Child("monitors")), requireStrings(at, pair{"image", spec.RBD.RBDImage})...)
		}},
		pods["quobyte"],
		{name: "cephFS", under: "cephfs", set: spec.CephFS != nil, check: func(at *field.Path) field.ErrorList {
			return requireList(len(spec.CephFS.Monitors), at.Child("monitors"))
		}},
		{name: "iscsi", set: spec.ISCSI != nil, check: func(at *field.Path) field.ErrorList { return validatePersistentISCSI(spec.ISCSI, pv.Name, at) }},
		{name: "cinder", set: spec.Cinder != nil, check: func(at *field.Path) field.ErrorList {
			return append(requireStrings(at, pair{"volumeID", spec.Cinder.VolumeID}), requireReference(spec.Cinder.SecretRef, at)...)
		}},
		pods["fc"],
		{name: "flexVolume", beside: true, set: spec.FlexVolume != nil, check: func(at *field.Path) field.ErrorList {
			return validateFlexOptions(spec.FlexVolume.Driver, spec.FlexVolume.Options, at)
		}},
		{name: "azureFile", set: spec.AzureFile != nil, check: func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"secretName", spec.AzureFile.SecretName}, pair{"shareName", spec.AzureFile.ShareName},
				pair{"secretNamespace", ptr.Deref(spec.AzureFile.SecretNamespace, "default")})
		}},
		pods["vsphereVolume"], pods["photonPersistentDisk"], pods["portworxVolume"], pods["azureDisk"],
		{name: "scaleIO", set: spec.ScaleIO != nil, check: func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"gateway", spec.ScaleIO.Gateway}, pair{"system", spec.ScaleIO.System}, pair{"volumeName", spec.ScaleIO.VolumeName})
		}},
		{name: "local", set: spec.Local != nil, check: func(at *field.Path) field.ErrorList {
			if spec.Local.Path == "" {
				return requireStrings(at, pair{"path", ""})
			}
			return validate.NoBacksteps(spec.Local.Path, at.Child("path"))
		}},
		{name: "storageos", set: spec.StorageOS != nil, check: func(at *field.Path) field.ErrorList { return validatePersistentStorageOS(spec.StorageOS, at) }},
		{name: "csi", set: spec.CSI != nil, check: func(at *field.Path) field.ErrorList { return validateCSISource(spec.CSI, at) }},
	}
}

// setSource names the first source that is set.
func setSource(sources []sourceCheck) string {
	for _, source := range sources {
		if source.set {
			return source.name
		}
	}
	return ""
}

func validateGlusterfs(source *corev1.GlusterfsPersistentVolumeSource, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"endpoints", source.EndpointsName}, pair{"path", source.Path})
	if namespace := source.EndpointsNamespace; namespace != nil {
		at := path.Child("endpointsNamespace")
		if *namespace == "" {
			return append(errs, field.Invalid(at, *namespace, "if the endpointnamespace is set, it must be a valid namespace name"))
		}
		errs = append(errs, validate.ObjectName(*namespace, at, apivalidation.ValidateNamespaceName)...)
	}
	return errs
}

func validatePersistentISCSI(source *corev1.ISCSIPersistentVolumeSource, volume string, path *field.Path) field.ErrorList {
	errs := validateISCSI(source.TargetPortal, source.IQN, source.InitiatorName, source.Lun,
		(source.DiscoveryCHAPAuth || source.SessionCHAPAuth) && source.SecretRef == nil, iscsiFormat, path)
	if source.InitiatorName != nil && len(volume+":"+source.TargetPortal) > longestTarget {
		errs = append(errs, field.Invalid(path.Child("targetportal"), source.TargetPortal, longTarget))
	}
	if source.SecretRef != nil {
		errs = append(errs, requireStrings(path.Child("secretRef"), pair{"name", source.SecretRef.Name})...)
	}
	return errs
}

func validatePersistentStorageOS(source *corev1.StorageOSPersistentVolumeSource, path *field.Path) field.ErrorList {
	errs := validateStorageOSName(source.VolumeName, source.VolumeNamespace, path)
	if ref := source.SecretRef; ref != nil {
		errs = append(errs, requireStrings(path.Child("secretRef"), pair{"name", ref.Name}, pair{"namespace", ref.Namespace})...)
	}
	return errs
}

// requireReference demands both parts of a reference to a secret.
func requireReference(ref *corev1.SecretReference, path *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	return requireStrings(path.Child("secretRef"), pair{"name", ref.Name}, pair{"namespace", ref.Namespace})
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

func validateCSISource(source *corev1.CSIPersistentVolumeSource, path *field.Path) field.ErrorList {
	errs := ValidateCSIDriverName(source.Driver, path.Child("driver"))
	errs = append(errs, requireStrings(path, pair{"volumeHandle", source.VolumeHandle})...)
	for _, secret := range []struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", source.ControllerPublishSecretRef},
		{"controllerExpandSecretRef", source.ControllerExpandSecretRef},
		{"nodePublishSecretRef", source.NodePublishSecretRef},
		{"nodeExpandSecretRef", source.NodeExpandSecretRef},
	} {
		if secret.ref == nil {
			continue
		}
		at := path.Child(secret.name)
		errs = append(errs, requireStrings(at, pair{"name", secret.ref.Name}, pair{"namespace", secret.ref.Namespace})...)
		if secret.ref.Name != "" {
			errs = append(errs, validate.DNSSubdomain(secret.ref.Name, at.Child("name"))...)
		}
		if secret.ref.Namespace != "" {
			errs = append(errs, validate.DNSLabel(secret.ref.Namespace, at.Child("namespace"))...)
		}
	}
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
	return append(errs, validate.Messages(path, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
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
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(oldSource, source))))
	}
	errs = append(errs, validate.Immutable(pv.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if affinity := old.Spec.NodeAffinity; affinity != nil && !validate.Equal(pv.Spec.NodeAffinity, withNewLabels(affinity, pv.Spec.NodeAffinity)) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), pv.Spec.NodeAffinity,
			validate.ImmutableMessage+", except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && pv.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(specPath.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// withNewLabels is the affinity with the labels that other names in their places, where these have succeeded them.
func withNewLabels(affinity, other *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	affinity = affinity.DeepCopy()
	if affinity.Required == nil || other == nil || other.Required == nil {
		return affinity
	}
	for i := range min(len(affinity.Required.NodeSelectorTerms), len(other.Required.NodeSelectorTerms)) {
		now, then := other.Required.NodeSelectorTerms[i].MatchExpressions, affinity.Required.NodeSelectorTerms[i].MatchExpressions
		for j := range min(len(now), len(then)) {
			if formerNodeLabels[then[j].Key].successor == now[j].Key {
				then[j].Key = now[j].Key
			}
		}
	}
	return affinity
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
	w := &warner{warnings: warnings}
	w.deadVolumes(field.NewPath("spec"), []presence{
		{"cephfs", pv.Spec.CephFS != nil},
		{"photonPersistentDisk", pv.Spec.PhotonPersistentDisk != nil},
		{"scaleIO", pv.Spec.ScaleIO != nil},
		{"storageOS", pv.Spec.StorageOS != nil},
		{"glusterfs", pv.Spec.Glusterfs != nil},
		{"rbd", pv.Spec.RBD != nil},
	})
	return w.warnings
}
