package core

import (
	"net"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/validate"
)

// networkSources are the volumes of the in-tree drivers of old. Their API is served for as long as v1 is; what mounts them is a
// CSI driver, or nothing.
func networkSources(v *corev1.VolumeSource) map[string]sourceCheck {
	byName := map[string]sourceCheck{}
	for _, source := range []sourceCheck{
		{name: "gitRepo", set: v.GitRepo != nil, check: func(at *field.Path) field.ErrorList {
			return append(requireStrings(at, pair{"repository", v.GitRepo.Repository}), validate.DescendingPath(v.GitRepo.Directory, at.Child("directory"))...)
		}},
		{name: "gcePersistentDisk", under: "persistentDisk", set: v.GCEPersistentDisk != nil, check: func(at *field.Path) field.ErrorList {
			return append(requireStrings(at, pair{"pdName", v.GCEPersistentDisk.PDName}), partition(v.GCEPersistentDisk.Partition, at)...)
		}},
		{name: "awsElasticBlockStore", set: v.AWSElasticBlockStore != nil, check: func(at *field.Path) field.ErrorList {
			return append(requireStrings(at, pair{"volumeID", v.AWSElasticBlockStore.VolumeID}), partition(v.AWSElasticBlockStore.Partition, at)...)
		}},
		{name: "nfs", set: v.NFS != nil, check: func(at *field.Path) field.ErrorList { return validateNFS(v.NFS, at) }},
		{name: "iscsi", set: v.ISCSI != nil, check: func(at *field.Path) field.ErrorList {
			return validateISCSI(v.ISCSI.TargetPortal, v.ISCSI.IQN, v.ISCSI.InitiatorName, v.ISCSI.Lun,
				(v.ISCSI.DiscoveryCHAPAuth || v.ISCSI.SessionCHAPAuth) && v.ISCSI.SecretRef == nil,
				iscsiFormat+" starting with iqn, eui, or naa", at)
		}},
		{name: "glusterfs", set: v.Glusterfs != nil, check: func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"endpoints", v.Glusterfs.EndpointsName}, pair{"path", v.Glusterfs.Path})
		}},
		{name: "flocker", set: v.Flocker != nil, check: func(at *field.Path) field.ErrorList { return validateFlocker(v.Flocker, at) }},
		{name: "rbd", set: v.RBD != nil, check: func(at *field.Path) field.ErrorList {
			return append(requireList(len(v.RBD.CephMonitors), at.Child("monitors")), requireStrings(at, pair{"image", v.RBD.RBDImage})...)
		}},
		{name: "cinder", set: v.Cinder != nil, check: func(at *field.Path) field.ErrorList {
			errs := requireStrings(at, pair{"volumeID", v.Cinder.VolumeID})
			if v.Cinder.SecretRef != nil {
				errs = append(errs, requireStrings(at.Child("secretRef"), pair{"name", v.Cinder.SecretRef.Name})...)
			}
			return errs
		}},
		{name: "cephFS", under: "cephfs", set: v.CephFS != nil, check: func(at *field.Path) field.ErrorList { return requireList(len(v.CephFS.Monitors), at.Child("monitors")) }},
		{name: "quobyte", set: v.Quobyte != nil, check: func(at *field.Path) field.ErrorList { return validateQuobyte(v.Quobyte, at) }},
		{name: "fc", set: v.FC != nil, check: func(at *field.Path) field.ErrorList { return validateFC(v.FC, at) }},
		{name: "flexVolume", set: v.FlexVolume != nil, check: func(at *field.Path) field.ErrorList {
			return validateFlexOptions(v.FlexVolume.Driver, v.FlexVolume.Options, at)
		}},
		{name: "azureFile", set: v.AzureFile != nil, check: func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"secretName", v.AzureFile.SecretName}, pair{"shareName", v.AzureFile.ShareName})
		}},
		{name: "vsphereVolume", set: v.VsphereVolume != nil, check: func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"volumePath", v.VsphereVolume.VolumePath})
		}},
		{name: "photonPersistentDisk", set: v.PhotonPersistentDisk != nil, check: func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"pdID", v.PhotonPersistentDisk.PdID})
		}},
		{name: "portworxVolume", set: v.PortworxVolume != nil, check: func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"volumeID", v.PortworxVolume.VolumeID})
		}},
		{name: "azureDisk", set: v.AzureDisk != nil, check: func(at *field.Path) field.ErrorList { return validateAzureDisk(v.AzureDisk, at) }},
		{name: "storageos", set: v.StorageOS != nil, check: func(at *field.Path) field.ErrorList {
			errs := validateStorageOSName(v.StorageOS.VolumeName, v.StorageOS.VolumeNamespace, at)
			if v.StorageOS.SecretRef != nil {
				errs = append(errs, requireStrings(at.Child("secretRef"), pair{"name", v.StorageOS.SecretRef.Name})...)
			}
			return errs
		}},
		{name: "scaleIO", set: v.ScaleIO != nil, check: func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"gateway", v.ScaleIO.Gateway}, pair{"system", v.ScaleIO.System}, pair{"volumeName", v.ScaleIO.VolumeName})
		}},
	} {
		byName[source.name] = source
	}
	return byName
}

func requireList(length int, path *field.Path) field.ErrorList {
	if length == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

func partition(number int32, path *field.Path) field.ErrorList {
	if number >= 0 && number <= 255 {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("partition"), number, validation.InclusiveRangeError(1, 255))}
}

// validateNFS checks an NFS export.
func validateNFS(v *corev1.NFSVolumeSource, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"server", v.Server}, pair{"path", v.Path})
	return append(errs, absolute(v.Path, path.Child("path"))...)
}

var (
	iscsiIQN = regexp.MustCompile(`^iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`)
	iscsiEUI = regexp.MustCompile(`^eui.[[:alnum:]]{16}$`)
	iscsiNAA = regexp.MustCompile(`^naa.[[:alnum:]]{32}$`)
)

func validateStorageOSName(volume, namespace string, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"volumeName", volume})
	if volume != "" {
		errs = append(errs, validate.DNSLabel(volume, path.Child("volumeName"))...)
	}
	if namespace != "" {
		errs = append(errs, validate.DNSLabel(namespace, path.Child("volumeNamespace"))...)
	}
	return errs
}

// validateISCSI checks an iSCSI target. prefixes is what a name is told that starts with none of the known ones.
func validateISCSI(portal, iqn string, initiator *string, lun int32, secretMissing bool, prefixes string, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"targetPortal", portal}, pair{"iqn", iqn})
	if iqn != "" && !isISCSIName(iqn) {
		errs = append(errs, field.Invalid(path.Child("iqn"), iqn, iscsiMessage(iqn, prefixes)))
	}
	if lun < 0 || lun > 255 {
		errs = append(errs, field.Invalid(path.Child("lun"), lun, validation.InclusiveRangeError(0, 255)))
	}
	if secretMissing {
		errs = append(errs, field.Required(path.Child("secretRef"), ""))
	}
	if initiator != nil && !isISCSIName(*initiator) {
		errs = append(errs, field.Invalid(path.Child("initiatorname"), *initiator, iscsiMessage(*initiator, prefixes)))
	}
	return errs
}

func iscsiMessage(name, prefixes string) string {
	for _, known := range []string{"iqn", "eui", "naa"} {
		if strings.HasPrefix(name, known) {
			return iscsiFormat
		}
	}
	return prefixes
}

const (
	iscsiFormat = "must be valid format"
	// longestTarget is how many characters volume and portal may have where an initiator is named: they make an interface's name.
	longestTarget = 64
	longTarget    = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."
)

func isISCSIName(name string) bool {
	switch {
	case strings.HasPrefix(name, "iqn"):
		return iscsiIQN.MatchString(name)
	case strings.HasPrefix(name, "eui"):
		return iscsiEUI.MatchString(name)
	case strings.HasPrefix(name, "naa"):
		return iscsiNAA.MatchString(name)
	}
	return false
}

// validateFC checks a Fibre Channel volume.
func validateFC(v *corev1.FCVolumeSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case len(v.TargetWWNs) == 0 && len(v.WWIDs) == 0:
		errs = append(errs, field.Required(path.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	case len(v.TargetWWNs) != 0 && len(v.WWIDs) != 0:
		errs = append(errs, field.Invalid(path.Child("targetWWNs"), v.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	if len(v.TargetWWNs) == 0 {
		return errs
	}
	if v.Lun == nil {
		return append(errs, field.Required(path.Child("lun"), "lun is required if targetWWNs is specified"))
	}
	if *v.Lun < 0 || *v.Lun > 255 {
		errs = append(errs, field.Invalid(path.Child("lun"), *v.Lun, validation.InclusiveRangeError(0, 255)))
	}
	return errs
}

// validateFlocker checks a Flocker dataset.
func validateFlocker(v *corev1.FlockerVolumeSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case v.DatasetName == "" && v.DatasetUUID == "":
		errs = append(errs, field.Required(path, "one of datasetName and datasetUUID is required"))
	case v.DatasetName != "" && v.DatasetUUID != "":
		errs = append(errs, field.Invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(v.DatasetName, "/") {
		errs = append(errs, field.Invalid(path.Child("datasetName"), v.DatasetName, "must not contain '/'"))
	}
	return errs
}

// validateQuobyte checks a Quobyte volume.
func validateQuobyte(v *corev1.QuobyteVolumeSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if v.Registry == "" {
		errs = append(errs, field.Required(path.Child("registry"), "must be a host:port pair or multiple pairs separated by commas"))
	} else if len(v.Tenant) >= 65 {
		errs = append(errs, field.Required(path.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	} else {
		for pair := range strings.SplitSeq(v.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				errs = append(errs, field.Invalid(path.Child("registry"), v.Registry, "must be a host:port pair or multiple pairs separated by commas"))
			}
		}
	}
	return append(errs, requireStrings(path, pair{"volume", v.Volume})...)
}

// validateFlexOptions checks the driver of a flex volume and the options that are not its own.
func validateFlexOptions(driver string, options map[string]string, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"driver", driver})
	for key := range options {
		namespace, _, ok := strings.Cut(strings.ToLower(key), "/")
		if ok && (strings.HasSuffix("."+namespace, ".kubernetes.io") || strings.HasSuffix("."+namespace, ".k8s.io")) {
			errs = append(errs, field.Invalid(path.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

// validateAzureDisk checks an Azure disk.
func validateAzureDisk(v *corev1.AzureDiskVolumeSource, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"diskName", v.DiskName}, pair{"diskURI", v.DataDiskURI})
	errs = append(errs, validate.OptionalOneOf(v.CachingMode, path.Child("cachingMode"), corev1.AzureDataDiskCachingNone,
		corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	errs = append(errs, validate.OptionalOneOf(v.Kind, path.Child("kind"),
		corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	managed := ptr.Deref(v.Kind, "") == corev1.AzureManagedDisk
	if managed && !strings.HasPrefix(v.DataDiskURI, "/subscriptions/") {
		errs = append(errs, field.NotSupported(path.Child("diskURI"), v.DataDiskURI,
			[]string{"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"}))
	}
	if !managed && !strings.HasPrefix(v.DataDiskURI, "https://") {
		errs = append(errs, field.NotSupported(path.Child("diskURI"), v.DataDiskURI,
			[]string{"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
	return errs
}
