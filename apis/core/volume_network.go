package core

import (
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
func networkSources(v *corev1.VolumeSource) []sourceCheck {
	return []sourceCheck{
		{"gitRepo", v.GitRepo != nil, func(at *field.Path) field.ErrorList {
			return append(requireStrings(at, pair{"repository", v.GitRepo.Repository}), validate.DescendingPath(v.GitRepo.Directory, at.Child("directory"))...)
		}},
		{"gcePersistentDisk", v.GCEPersistentDisk != nil, func(at *field.Path) field.ErrorList {
			return append(requireStrings(at, pair{"pdName", v.GCEPersistentDisk.PDName}), partition(v.GCEPersistentDisk.Partition, at)...)
		}},
		{"awsElasticBlockStore", v.AWSElasticBlockStore != nil, func(at *field.Path) field.ErrorList {
			return append(requireStrings(at, pair{"volumeID", v.AWSElasticBlockStore.VolumeID}), partition(v.AWSElasticBlockStore.Partition, at)...)
		}},
		{"nfs", v.NFS != nil, func(at *field.Path) field.ErrorList { return validateNFS(v.NFS, at) }},
		{"iscsi", v.ISCSI != nil, func(at *field.Path) field.ErrorList {
			return validateISCSI(v.ISCSI.TargetPortal, v.ISCSI.IQN, v.ISCSI.InitiatorName, v.ISCSI.Lun,
				(v.ISCSI.DiscoveryCHAPAuth || v.ISCSI.SessionCHAPAuth) && v.ISCSI.SecretRef == nil, at)
		}},
		{"glusterfs", v.Glusterfs != nil, func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"endpoints", v.Glusterfs.EndpointsName}, pair{"path", v.Glusterfs.Path})
		}},
		{"flocker", v.Flocker != nil, func(at *field.Path) field.ErrorList { return validateFlocker(v.Flocker, at) }},
		{"rbd", v.RBD != nil, func(at *field.Path) field.ErrorList {
			return append(requireList(len(v.RBD.CephMonitors), at.Child("monitors")), requireStrings(at, pair{"image", v.RBD.RBDImage})...)
		}},
		{"cinder", v.Cinder != nil, func(at *field.Path) field.ErrorList {
			errs := requireStrings(at, pair{"volumeID", v.Cinder.VolumeID})
			if v.Cinder.SecretRef != nil {
				errs = append(errs, requireStrings(at.Child("secretRef"), pair{"name", v.Cinder.SecretRef.Name})...)
			}
			return errs
		}},
		{"cephfs", v.CephFS != nil, func(at *field.Path) field.ErrorList { return requireList(len(v.CephFS.Monitors), at.Child("monitors")) }},
		{"quobyte", v.Quobyte != nil, func(at *field.Path) field.ErrorList { return validateQuobyte(v.Quobyte, at) }},
		{"fc", v.FC != nil, func(at *field.Path) field.ErrorList { return validateFC(v.FC, at) }},
		{"flexVolume", v.FlexVolume != nil, func(at *field.Path) field.ErrorList {
			return validateFlexOptions(v.FlexVolume.Driver, v.FlexVolume.Options, at)
		}},
		{"azureFile", v.AzureFile != nil, func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"secretName", v.AzureFile.SecretName}, pair{"shareName", v.AzureFile.ShareName})
		}},
		{"vsphereVolume", v.VsphereVolume != nil, func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"volumePath", v.VsphereVolume.VolumePath})
		}},
		{"photonPersistentDisk", v.PhotonPersistentDisk != nil, func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"pdID", v.PhotonPersistentDisk.PdID})
		}},
		{"portworxVolume", v.PortworxVolume != nil, func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"volumeID", v.PortworxVolume.VolumeID})
		}},
		{"azureDisk", v.AzureDisk != nil, func(at *field.Path) field.ErrorList { return validateAzureDisk(v.AzureDisk, at) }},
		{"storageos", v.StorageOS != nil, func(at *field.Path) field.ErrorList {
			errs := requireStrings(at, pair{"volumeName", v.StorageOS.VolumeName})
			if v.StorageOS.SecretRef != nil {
				errs = append(errs, requireStrings(at.Child("secretRef"), pair{"name", v.StorageOS.SecretRef.Name})...)
			}
			return errs
		}},
		{"scaleIO", v.ScaleIO != nil, func(at *field.Path) field.ErrorList {
			return requireStrings(at, pair{"gateway", v.ScaleIO.Gateway}, pair{"system", v.ScaleIO.System}, pair{"volumeName", v.ScaleIO.VolumeName})
		}},
	}
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

// validateISCSI checks an iSCSI target.
func validateISCSI(portal, iqn string, initiator *string, lun int32, secretMissing bool, path *field.Path) field.ErrorList {
	errs := requireStrings(path, pair{"targetPortal", portal}, pair{"iqn", iqn})
	if iqn != "" && !isISCSIName(iqn) {
		errs = append(errs, field.Invalid(path.Child("iqn"), iqn, "must be valid format"))
	}
	if lun < 0 || lun > 255 {
		errs = append(errs, field.Invalid(path.Child("lun"), lun, validation.InclusiveRangeError(0, 255)))
	}
	if secretMissing {
		errs = append(errs, field.Required(path.Child("secretRef"), ""))
	}
	if initiator != nil && !isISCSIName(*initiator) {
		errs = append(errs, field.Invalid(path.Child("initiatorname"), *initiator, "must be valid format"))
	}
	return errs
}

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
	switch {
	case v.DatasetName == "" && v.DatasetUUID == "":
		return field.ErrorList{field.Required(path, "one of datasetName and datasetUUID is required")}
	case v.DatasetName != "" && v.DatasetUUID != "":
		return field.ErrorList{field.Invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously")}
	case strings.Contains(v.DatasetName, "/"):
		return field.ErrorList{field.Invalid(path.Child("datasetName"), v.DatasetName, "must not contain '/'")}
	}
	return nil
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
			if host, port, ok := strings.Cut(pair, ":"); !ok || host == "" || port == "" {
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
	if !managed && v.DataDiskURI != "" && !strings.HasPrefix(v.DataDiskURI, "https://") {
		errs = append(errs, field.NotSupported(path.Child("diskURI"), v.DataDiskURI,
			[]string{"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
	return errs
}
