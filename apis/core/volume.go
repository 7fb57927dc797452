package core

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
)

func validateVolumes(c *podContext, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	made := claimsToMake(c)
	for i := range c.spec.Volumes {
		v, at := &c.spec.Volumes[i], path.Index(i)
		invalid := validateVolumeSource(&v.VolumeSource, at)
		if v.Name == "" {
			invalid = append(invalid, field.Required(at.Child("name"), ""))
		} else {
			invalid = append(invalid, validate.DNSLabel(v.Name, at.Child("name"))...)
		}
		if v.ISCSI != nil && v.ISCSI.InitiatorName != nil && len(v.Name+":"+v.ISCSI.TargetPortal) > longestTarget {
			invalid = append(invalid, field.Invalid(at.Child("name"), v.Name, longTarget))
		}
		if claim := made[v.Name]; v.Ephemeral != nil && claim != "" {
			for _, message := range apivalidation.NameIsDNSSubdomain(claim, false) {
				invalid = append(invalid, field.Invalid(at.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", claim, message)))
			}
		}
		if c.volumes[v.Name] != nil {
			invalid = append(invalid, field.Duplicate(at.Child("name"), v.Name))
		}
		if len(invalid) == 0 {
			c.volumes[v.Name] = v // mounts of others find nothing
		}
		errs = append(errs, invalid...)
		if source := v.PersistentVolumeClaim; source != nil && slices.Contains(slices.Collect(maps.Values(made)), source.ClaimName) {
			errs = append(errs, field.Invalid(at.Child("persistentVolumeClaim", "claimName"), source.ClaimName,
				"must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return errs
}

// claimsToMake names the claim that is made for each ephemeral volume of a pod, by the name of the volume.
func claimsToMake(c *podContext) map[string]string {
	claims := map[string]string{}
	for i := range c.spec.Volumes {
		if v := &c.spec.Volumes[i]; v.Ephemeral != nil && v.Name != "" && c.pod != nil && c.pod.Name != "" {
			claims[v.Name] = c.pod.Name + "-" + v.Name
		}
	}
	return claims
}

// sourceCheck is one type of volume: its field, whether it is used, and its rules.
type sourceCheck struct {
	name  string
	set   bool
	check func(*field.Path) field.ErrorList
	under string // the field as its own rules call it, where that differs
	// beside lets it stand beside another source that comes before it.
	beside bool
}

// validateVolumeSource demands exactly one source and checks it.
func validateVolumeSource(v *corev1.VolumeSource, path *field.Path) field.ErrorList {
	network := networkSources(v)
	return checkSources([]sourceCheck{
		{name: "emptyDir", set: v.EmptyDir != nil, check: func(at *field.Path) field.ErrorList { return validateEmptyDir(v.EmptyDir, at) }},
		{name: "hostPath", set: v.HostPath != nil, check: func(at *field.Path) field.ErrorList { return validateHostPathSource(v.HostPath, at) }},
		network["gitRepo"], network["gcePersistentDisk"], network["awsElasticBlockStore"],
		{name: "secret", set: v.Secret != nil, check: func(at *field.Path) field.ErrorList { return validateSecretVolume(v.Secret, at) }},
		network["nfs"], network["iscsi"], network["glusterfs"], network["flocker"],
		{name: "persistentVolumeClaim", set: v.PersistentVolumeClaim != nil, check: func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"claimName", v.PersistentVolumeClaim.ClaimName})
		}},
		network["rbd"], network["cinder"], network["cephFS"], network["quobyte"],
		{
			name: "downwarAPI", under: "downwardAPI", set: v.DownwardAPI != nil, // misspelt, as clients have always been told it
			check: func(at *field.Path) field.ErrorList { return validateDownwardVolume(v.DownwardAPI, at) },
		},
		network["fc"], network["flexVolume"],
		{name: "configMap", set: v.ConfigMap != nil, check: func(at *field.Path) field.ErrorList { return validateConfigMapVolume(v.ConfigMap, at) }},
		network["azureFile"], network["vsphereVolume"], network["photonPersistentDisk"], network["portworxVolume"], network["azureDisk"], network["storageos"],
		{name: "projected", set: v.Projected != nil, check: func(at *field.Path) field.ErrorList { return validateProjected(v.Projected, at) }},
		network["scaleIO"],
		{name: "csi", set: v.CSI != nil, check: func(at *field.Path) field.ErrorList { return validateInlineCSI(v.CSI, at) }},
		{name: "ephemeral", set: v.Ephemeral != nil, check: func(at *field.Path) field.ErrorList { return validateEphemeralVolume(v.Ephemeral, at) }},
		{name: "image", set: v.Image != nil, check: func(at *field.Path) field.ErrorList { return validateImageVolume(v.Image, at) }},
	}, path)
}

// checkSources demands exactly one source and checks the first.
func checkSources(sources []sourceCheck, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	count := 0
	for _, source := range sources {
		if !source.set {
			continue
		}
		if count++; count > 1 && !source.beside {
			errs = append(errs, field.Forbidden(path.Child(source.name), "may not specify more than 1 volume type"))
			continue
		}
		errs = append(errs, source.check(path.Child(cmp.Or(source.under, source.name)))...)
	}
	if count == 0 {
		errs = append(errs, field.Required(path, "must specify a volume type"))
	}
	return errs
}

func validateEmptyDir(v *corev1.EmptyDirVolumeSource, path *field.Path) field.ErrorList {
	if v.SizeLimit != nil && v.SizeLimit.Sign() < 0 {
		return field.ErrorList{field.Forbidden(path.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")}
	}
	return nil
}

func validateSecretVolume(v *corev1.SecretVolumeSource, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"secretName", v.SecretName})
	errs = append(errs, validate.FileMode(v.DefaultMode, path.Child("defaultMode"))...)
	return append(errs, validateItems(v.Items, path.Child("items"), nil)...)
}

func validateConfigMapVolume(v *corev1.ConfigMapVolumeSource, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"name", v.Name})
	errs = append(errs, validate.FileMode(v.DefaultMode, path.Child("defaultMode"))...)
	return append(errs, validateItems(v.Items, path.Child("items"), nil)...)
}

// validateItems checks which keys become which files; taken, if any, is told every file.
func validateItems(items []corev1.KeyToPath, path *field.Path, taken func(string)) field.ErrorList {
	var errs field.ErrorList
	for i := range items {
		at := path.Index(i)
		errs = append(errs, requireStrings(at, pair{"key", items[i].Key}, pair{"path", items[i].Path})...)
		errs = append(errs, validate.NonReservedPath(items[i].Path, at.Child("path"))...)
		errs = append(errs, validate.FileMode(items[i].Mode, at.Child("mode"))...)
		if taken != nil && items[i].Path != "" {
			taken(items[i].Path)
		}
	}
	return errs
}

func validateDownwardVolume(v *corev1.DownwardAPIVolumeSource, path *field.Path) field.ErrorList {
	errs := validate.FileMode(v.DefaultMode, path.Child("defaultMode"))
	for i := range v.Items {
		errs = append(errs, validateDownwardFile(&v.Items[i], path)...)
	}
	return errs
}

func validateDownwardFile(file *corev1.DownwardAPIVolumeFile, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"path", file.Path})
	errs = append(errs, validate.NonReservedPath(file.Path, path.Child("path"))...)
	switch {
	case file.FieldRef != nil:
		errs = append(errs, validateFieldRef(file.FieldRef, volumeFields, path.Child("fieldRef"))...)
		if file.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case file.ResourceFieldRef != nil:
		errs = append(errs, validateResourceFieldRef(file.ResourceFieldRef, path.Child("resourceFieldRef"), true)...)
	default:
		errs = append(errs, field.Required(path, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(errs, validate.FileMode(file.Mode, path.Child("mode"))...)
}

func validateInlineCSI(v *corev1.CSIVolumeSource, path *field.Path) field.ErrorList {
	errs := ValidateCSIDriverName(v.Driver, path.Child("driver"))
	if v.NodePublishSecretRef != nil {
		at := path.Child("nodePublishSecretRef", "name")
		if v.NodePublishSecretRef.Name == "" {
			return append(errs, field.Required(at, ""))
		}
		errs = append(errs, validate.ObjectName(v.NodePublishSecretRef.Name, path.Child("name"), apivalidation.NameIsDNSSubdomain)...)
	}
	return errs
}

func validateEphemeralVolume(v *corev1.EphemeralVolumeSource, path *field.Path) field.ErrorList {
	template := path.Child("volumeClaimTemplate")
	if v.VolumeClaimTemplate == nil {
		return field.ErrorList{field.Required(template, "")}
	}
	errs := validate.TemplateMetadata(&v.VolumeClaimTemplate.ObjectMeta, template.Child("metadata"))
	return append(errs, ValidatePersistentVolumeClaimSpec(&v.VolumeClaimTemplate.Spec, template.Child("spec"))...)
}

func validateImageVolume(v *corev1.ImageVolumeSource, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"reference", v.Reference})
	return append(errs, validatePullPolicy(v.PullPolicy, path.Child("pullPolicy"))...)
}

// validateVolumeMounts checks that every mount has a volume and a place of its own.
func validateVolumeMounts(c *podContext, container *corev1.Container, fieldPath *field.Path) field.ErrorList {
	var errs field.ErrorList
	devices, devicePaths := sets.New[string](), sets.New[string]()
	for _, device := range container.VolumeDevices {
		devices.Insert(device.Name)
		devicePaths.Insert(device.DevicePath)
	}
	places := sets.New[string]()
	for i := range container.VolumeMounts {
		mount, at := &container.VolumeMounts[i], fieldPath.Index(i)
		errs = append(errs, requireStrings(at, pair{"name", mount.Name})...)
		if _, ok := c.volumes[mount.Name]; !ok {
			errs = append(errs, field.NotFound(at.Child("name"), mount.Name))
		}
		errs = append(errs, requireStrings(at, pair{"mountPath", mount.MountPath})...)
		if places.Has(mount.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), mount.MountPath, "must be unique"))
		}
		places.Insert(mount.MountPath)
		if devices.Has(mount.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), mount.Name, "must not already exist in volumeDevices"))
		}
		if devicePaths.Has(mount.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), mount.MountPath, "must not already exist as a path in volumeDevices"))
		}
		if mount.SubPath != "" {
			errs = append(errs, validate.DescendingPath(mount.SubPath, fieldPath.Child("subPath"))...)
		}
		if mount.SubPathExpr != "" {
			if mount.SubPath != "" {
				errs = append(errs, field.Invalid(at.Child("subPathExpr"), mount.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			errs = append(errs, validate.DescendingPath(mount.SubPathExpr, fieldPath.Child("subPathExpr"))...)
		}
		errs = append(errs, validatePropagation(mount, isPrivileged(container), fieldPath)...)
	}
	return errs
}

// validatePropagation tells of the list, not of the mount, as it always has.
func validatePropagation(mount *corev1.VolumeMount, privileged bool, path *field.Path) field.ErrorList {
	errs := validate.OptionalOneOf(mount.MountPropagation, path.Child("mountPropagation"), corev1.MountPropagationBidirectional,
		corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	if mount.MountPropagation != nil && *mount.MountPropagation == corev1.MountPropagationBidirectional && !privileged {
		errs = append(errs, field.Forbidden(path.Child("mountPropagation"),
			"Bidirectional mount propagation is available only to privileged containers"))
	}
	if mount.RecursiveReadOnly == nil {
		return errs
	}
	at := path.Child("recursiveReadOnly")
	errs = append(errs, validate.OneOf(*mount.RecursiveReadOnly, at,
		corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)...)
	if *mount.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled || len(errs) > 0 {
		return errs
	}
	if !mount.ReadOnly {
		errs = append(errs, field.Forbidden(at, "may only be specified when readOnly is true"))
	}
	if mount.MountPropagation != nil && *mount.MountPropagation != corev1.MountPropagationNone {
		errs = append(errs, field.Forbidden(at, "may only be specified when mountPropagation is None or not specified"))
	}
	return errs
}

// validateVolumeDevices checks block devices: they come from claims, and share neither name nor place with mounts.
func validateVolumeDevices(c *podContext, container *corev1.Container, fieldPath *field.Path) field.ErrorList {
	var errs field.ErrorList
	mounts, mountPaths := sets.New[string](), sets.New[string]()
	for _, mount := range container.VolumeMounts {
		mounts.Insert(mount.Name)
		mountPaths.Insert(mount.MountPath)
	}
	names, places := sets.New[string](), sets.New[string]()
	for i, device := range container.VolumeDevices {
		at := fieldPath.Index(i)
		errs = append(errs, requireStrings(at, pair{"name", device.Name})...)
		if names.Has(device.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), device.Name, "must be unique"))
		}
		v, ok := c.volumes[device.Name]
		switch {
		case ok && v.PersistentVolumeClaim == nil && v.Ephemeral == nil:
			errs = append(errs, field.Invalid(at.Child("name"), device.Name,
				"can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		case !ok:
			errs = append(errs, field.NotFound(at.Child("name"), device.Name))
		}
		errs = append(errs, requireStrings(at, pair{"devicePath", device.DevicePath})...)
		if places.Has(device.DevicePath) {
			errs = append(errs, field.Invalid(at.Child("devicePath"), device.DevicePath, "must be unique"))
		}
		if len(validate.NoBacksteps(device.DevicePath, at)) > 0 {
			errs = append(errs, field.Invalid(at.Child("devicePath"), device.DevicePath, "can not contain backsteps ('..')"))
		}
		if mounts.Has(device.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), device.Name, "must not already exist in volumeMounts"))
		}
		if mountPaths.Has(device.DevicePath) {
			errs = append(errs, field.Invalid(at.Child("devicePath"), device.DevicePath, "must not already exist as a path in volumeMounts"))
		}
		names.Insert(device.Name)
		places.Insert(device.DevicePath)
	}
	return errs
}

// absolute demands a path that begins at the root.
func absolute(target string, fieldPath *field.Path) field.ErrorList {
	if path.IsAbs(target) {
		return nil
	}
	return field.ErrorList{field.Invalid(fieldPath, target, "must be an absolute path")}
}
