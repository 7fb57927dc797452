package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
)

const fileMode int32 = 0o644

// defaultVolume makes a volume without a source an emptyDir and fills what its source leaves open.
func defaultVolume(v *corev1.Volume) {
	if ptr.AllPtrFieldsNil(&v.VolumeSource) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	if v.HostPath != nil {
		resource.SetDefaultPtr(&v.HostPath.Type, corev1.HostPathUnset)
	}
	if v.Secret != nil {
		resource.SetDefaultPtr(&v.Secret.DefaultMode, fileMode)
	}
	if v.ConfigMap != nil {
		resource.SetDefaultPtr(&v.ConfigMap.DefaultMode, fileMode)
	}
	if v.DownwardAPI != nil {
		resource.SetDefaultPtr(&v.DownwardAPI.DefaultMode, fileMode)
		defaultDownwardFiles(v.DownwardAPI.Items)
	}
	if v.Projected != nil {
		resource.SetDefaultPtr(&v.Projected.DefaultMode, fileMode)
		for i := range v.Projected.Sources {
			defaultProjection(&v.Projected.Sources[i])
		}
	}
	if v.Image != nil {
		resource.SetDefault(&v.Image.PullPolicy, defaultPullPolicy(v.Image.Reference))
	}
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		DefaultVolumeClaimSpec(&v.Ephemeral.VolumeClaimTemplate.Spec)
	}
	defaultNetworkVolume(&v.VolumeSource)
}

func defaultProjection(p *corev1.VolumeProjection) {
	if p.ServiceAccountToken != nil {
		resource.SetDefaultPtr(&p.ServiceAccountToken.ExpirationSeconds, 60*60)
	}
	if p.DownwardAPI != nil {
		defaultDownwardFiles(p.DownwardAPI.Items)
	}
	if p.PodCertificate != nil {
		resource.SetDefaultPtr(&p.PodCertificate.MaxExpirationSeconds, 24*60*60)
	}
}

func defaultDownwardFiles(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		defaultFieldRef(items[i].FieldRef)
	}
}

// DefaultVolumeClaimSpec fills what a claim, or a template of one, leaves open.
func DefaultVolumeClaimSpec(spec *corev1.PersistentVolumeClaimSpec) {
	resource.SetDefaultPtr(&spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(spec.Resources.Limits, spec.Resources.Requests)
}

// defaultNetworkVolume keeps the API of the old in-tree drivers, which CSI migration still reads.
func defaultNetworkVolume(v *corev1.VolumeSource) {
	if v.ISCSI != nil {
		resource.SetDefault(&v.ISCSI.ISCSIInterface, "default")
	}
	if v.RBD != nil {
		resource.SetDefault(&v.RBD.RBDPool, "rbd")
		resource.SetDefault(&v.RBD.RadosUser, "admin")
		resource.SetDefault(&v.RBD.Keyring, "/etc/ceph/keyring")
	}
	if v.ScaleIO != nil {
		resource.SetDefault(&v.ScaleIO.StorageMode, "ThinProvisioned")
		resource.SetDefault(&v.ScaleIO.FSType, "xfs")
	}
	if v.AzureDisk != nil {
		resource.SetDefaultPtr(&v.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		resource.SetDefaultPtr(&v.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		resource.SetDefaultPtr(&v.AzureDisk.FSType, "ext4")
		resource.SetDefaultPtr(&v.AzureDisk.ReadOnly, false)
	}
}
