package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

const fileMode int32 = 0o644

// defaultVolume makes a volume without a source an emptyDir and fills what its source leaves open.
func defaultVolume(v *corev1.Volume) {
	if ptr.AllPtrFieldsNil(&v.VolumeSource) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	if v.HostPath != nil {
		setDefault(&v.HostPath.Type, corev1.HostPathUnset)
	}
	if v.Secret != nil {
		setDefault(&v.Secret.DefaultMode, fileMode)
	}
	if v.ConfigMap != nil {
		setDefault(&v.ConfigMap.DefaultMode, fileMode)
	}
	if v.DownwardAPI != nil {
		setDefault(&v.DownwardAPI.DefaultMode, fileMode)
		defaultDownwardFiles(v.DownwardAPI.Items)
	}
	if v.Projected != nil {
		setDefault(&v.Projected.DefaultMode, fileMode)
		for i := range v.Projected.Sources {
			defaultProjection(&v.Projected.Sources[i])
		}
	}
	if v.Image != nil {
		setDefaultString(&v.Image.PullPolicy, defaultPullPolicy(v.Image.Reference))
	}
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		DefaultVolumeClaimSpec(&v.Ephemeral.VolumeClaimTemplate.Spec)
	}
	defaultNetworkVolume(&v.VolumeSource)
}

func defaultProjection(p *corev1.VolumeProjection) {
	if p.ServiceAccountToken != nil {
		setDefault(&p.ServiceAccountToken.ExpirationSeconds, 60*60)
	}
	if p.DownwardAPI != nil {
		defaultDownwardFiles(p.DownwardAPI.Items)
	}
	if p.PodCertificate != nil {
		setDefault(&p.PodCertificate.MaxExpirationSeconds, 24*60*60)
	}
}

func defaultDownwardFiles(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		defaultFieldRef(items[i].FieldRef)
	}
}

// DefaultVolumeClaimSpec fills what a claim, or a template of one, leaves open.
func DefaultVolumeClaimSpec(spec *corev1.PersistentVolumeClaimSpec) {
	setDefault(&spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(spec.Resources.Limits, spec.Resources.Requests)
}

// defaultNetworkVolume keeps the API of the old in-tree drivers, which CSI migration still reads.
func defaultNetworkVolume(v *corev1.VolumeSource) {
	if v.ISCSI != nil {
		setDefaultString(&v.ISCSI.ISCSIInterface, "default")
	}
	if v.RBD != nil {
		setDefaultString(&v.RBD.RBDPool, "rbd")
		setDefaultString(&v.RBD.RadosUser, "admin")
		setDefaultString(&v.RBD.Keyring, "/etc/ceph/keyring")
	}
	if v.ScaleIO != nil {
		setDefaultString(&v.ScaleIO.StorageMode, "ThinProvisioned")
		setDefaultString(&v.ScaleIO.FSType, "xfs")
	}
	if v.AzureDisk != nil {
		setDefault(&v.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		setDefault(&v.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		setDefault(&v.AzureDisk.FSType, "ext4")
		setDefault(&v.AzureDisk.ReadOnly, false)
	}
}
