package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
	"keelson.dev/internal/features"
)

// visitContainers calls f for every container of any sort, with the name of the list it stands in.
func visitContainers(spec *corev1.PodSpec, f func(list string, index int, c *corev1.Container)) {
	for i := range spec.InitContainers {
		f("initContainers", i, &spec.InitContainers[i])
	}
	for i := range spec.Containers {
		f("containers", i, &spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		// The common part has the same fields in the same order, by contract of the API.
		f("ephemeralContainers", i, (*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

// PreparePodTemplate drops from a template what this version does not serve.
func PreparePodTemplate(template *corev1.PodTemplateSpec) { dropAlphaFields(&template.Spec) }

// dropAlphaFields clears the fields whose feature gates are off, as those of alpha features are unless opened: what is not acted on
// is not stored.
func dropAlphaFields(spec *corev1.PodSpec) {
	if !features.Enabled("GenericWorkload") {
		spec.SchedulingGroup = nil
	}
	if !features.Enabled("EvictionRequestAPI") {
		spec.EvictionResponders = nil
	}
	visitContainers(spec, func(_ string, _ int, c *corev1.Container) { dropAlphaOfContainer(c) })
	modes, users := features.Enabled("EmptyDirVolumeMode"), features.Enabled("AtomicWriteVolumeUserFields")
	for i := range spec.Volumes {
		if v := &spec.Volumes[i]; !modes && v.EmptyDir != nil {
			v.EmptyDir.Mode = nil
		}
		if users {
			continue
		}
		dropVolumeUsers(&spec.Volumes[i])
	}
}

func dropAlphaOfContainer(c *corev1.Container) {
	if !features.Enabled("VolumeBindMountOptions") {
		for i := range c.VolumeMounts {
			c.VolumeMounts[i].BindMountOptions = nil
		}
	}
	if !features.Enabled("ContainerStopSignals") && c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		if c.Lifecycle.StopSignal = nil; *c.Lifecycle == (corev1.Lifecycle{}) {
			c.Lifecycle = nil
		}
	}
	var requests []*corev1.HTTPGetAction
	if c.Lifecycle != nil {
		for _, hook := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if hook != nil {
				requests = append(requests, hook.HTTPGet)
			}
		}
	}
	grpcTLS := features.Enabled("GRPCContainerProbeTLS")
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if probe == nil {
			continue
		}
		requests = append(requests, probe.HTTPGet)
		if !grpcTLS && probe.GRPC != nil {
			probe.GRPC.Mode = nil
		}
	}
	if features.Enabled("H2CContainerProbe") {
		return
	}
	for _, request := range requests {
		if request != nil {
			request.Protocol = nil
		}
	}
}

// dropAlphaStatus does the same for what is reported.
func dropAlphaStatus(status *corev1.PodStatus) {
	if !features.Enabled("DRANodeAllocatableResources") {
		status.NodeAllocatableResourceClaimStatuses = nil
	}
	if !features.Enabled("CSIVolumeHealth") {
		status.VolumeHealth = nil
	}
	if features.Enabled("ImageVolumeWithDigest") {
		return
	}
	for _, list := range [][]corev1.ContainerStatus{status.ContainerStatuses, status.InitContainerStatuses, status.EphemeralContainerStatuses} {
		for i := range list {
			for j := range list[i].VolumeMounts {
				list[i].VolumeMounts[j].VolumeStatus = nil
			}
		}
	}
}

func dropVolumeUsers(v *corev1.Volume) {
	if v.Secret != nil {
		v.Secret.DefaultUser = nil
		dropUsers(v.Secret.Items)
	}
	if v.ConfigMap != nil {
		v.ConfigMap.DefaultUser = nil
		dropUsers(v.ConfigMap.Items)
	}
	if v.DownwardAPI != nil {
		v.DownwardAPI.DefaultUser = nil
		dropFileUsers(v.DownwardAPI.Items)
	}
	if v.Projected == nil {
		return
	}
	v.Projected.DefaultUser = nil
	for i := range v.Projected.Sources {
		source := &v.Projected.Sources[i]
		if source.Secret != nil {
			dropUsers(source.Secret.Items)
		}
		if source.ConfigMap != nil {
			dropUsers(source.ConfigMap.Items)
		}
		if source.DownwardAPI != nil {
			dropFileUsers(source.DownwardAPI.Items)
		}
		if source.ServiceAccountToken != nil {
			source.ServiceAccountToken.User = nil
		}
		if source.ClusterTrustBundle != nil {
			source.ClusterTrustBundle.User = nil
		}
		if source.PodCertificate != nil {
			source.PodCertificate.User = nil
		}
	}
}

func dropUsers(items []corev1.KeyToPath) {
	for i := range items {
		items[i].User = nil
	}
}

func dropFileUsers(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		items[i].User = nil
	}
}

// appArmorFromAnnotations fills the profile of containers that still name it by the deprecated annotation.
func appArmorFromAnnotations(p *corev1.Pod) {
	if p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
		return
	}
	visitContainers(&p.Spec, func(_ string, _ int, c *corev1.Container) {
		value, ok := p.Annotations[appArmorAnnotationBase+c.Name]
		profile := appArmorProfile(value)
		if !ok || ownAppArmor(c) != nil || profile == nil || validate.Equal(profile, podAppArmor(&p.Spec)) || len(validateAppArmor(profile, nil)) > 0 {
			return
		}
		if c.SecurityContext == nil {
			c.SecurityContext = &corev1.SecurityContext{}
		}
		c.SecurityContext.AppArmorProfile = profile
	})
}

// warnAppArmor tells of annotations that name a profile which is neither their container's own nor the pod's.
func warnAppArmor(annotations map[string]string, spec *corev1.PodSpec, path *field.Path) []string {
	w := &warner{}
	visitContainers(spec, func(_ string, _ int, c *corev1.Container) {
		value, ok := annotations[appArmorAnnotationBase+c.Name]
		if pod := podAppArmor(spec); ok && ownAppArmor(c) == nil && (pod == nil || !validate.Equal(pod, appArmorProfile(value))) {
			w.add(path.Key(appArmorAnnotationBase+c.Name), `deprecated since v1.30; use the "appArmorProfile" field instead`)
		}
	})
	return w.warnings
}

func ownAppArmor(c *corev1.Container) *corev1.AppArmorProfile {
	if c.SecurityContext == nil {
		return nil
	}
	return c.SecurityContext.AppArmorProfile
}

func podAppArmor(spec *corev1.PodSpec) *corev1.AppArmorProfile {
	if spec.SecurityContext == nil {
		return nil
	}
	return spec.SecurityContext.AppArmorProfile
}

func appArmorProfile(annotation string) *corev1.AppArmorProfile {
	switch {
	case annotation == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case annotation == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case strings.HasPrefix(annotation, corev1.DeprecatedAppArmorBetaProfileNamePrefix):
		name := strings.TrimPrefix(annotation, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
		if name != "" {
			return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
		}
	}
	return nil
}
