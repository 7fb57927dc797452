package core

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/validate"
)

// validatePodSecurity checks the pod's security context and its use of the host's namespaces.
func validatePodSecurity(c *podContext, specPath *field.Path) field.ErrorList {
	spec, path := c.spec, specPath.Child("securityContext")
	errs := validateHostPorts(c, specPath)
	if ptr.Deref(spec.ShareProcessNamespace, false) && spec.HostPID {
		errs = append(errs, field.Invalid(specPath.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	errs = append(errs, validateHostUsers(spec, specPath)...)
	sc := spec.SecurityContext
	if sc == nil {
		return errs
	}
	errs = append(errs, groupID(sc.FSGroup, path.Child("fsGroup"))...)
	errs = append(errs, userID(sc.RunAsUser, path.Child("runAsUser"))...)
	errs = append(errs, groupID(sc.RunAsGroup, path.Child("runAsGroup"))...)
	for i, gid := range sc.SupplementalGroups {
		errs = append(errs, validate.Messages(path.Child("supplementalGroups").Index(i), gid, validation.IsValidGroupID(gid))...)
	}
	errs = append(errs, validateSysctls(spec, path.Child("sysctls"))...)
	errs = append(errs, validate.OptionalOneOf(sc.FSGroupChangePolicy, path.Child("fsGroupChangePolicy"),
		corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	errs = append(errs, validate.OptionalOneOf(sc.SupplementalGroupsPolicy, path.Child("supplementalGroupsPolicy"),
		corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	errs = append(errs, validate.OptionalOneOf(sc.SELinuxChangePolicy, path.Child("seLinuxChangePolicy"),
		corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)...)
	errs = append(errs, validateSeccomp(sc.SeccompProfile, path.Child("seccompProfile"))...)
	errs = append(errs, validateAppArmor(sc.AppArmorProfile, path.Child("appArmorProfile"))...)
	errs = append(errs, validateWindowsOptions(sc.WindowsOptions, path.Child("windowsOptions"))...)
	return append(errs, validateHostProcess(spec, specPath)...)
}

func userID(id *int64, path *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return validate.Messages(path, *id, validation.IsValidUserID(*id))
}

func groupID(id *int64, path *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return validate.Messages(path, *id, validation.IsValidGroupID(*id))
}

// validateHostPorts: a container in the host's network has its ports on the host under the same numbers.
func validateHostPorts(c *podContext, specPath *field.Path) field.ErrorList {
	if !c.spec.HostNetwork {
		return nil
	}
	var errs field.ErrorList
	for i := range c.spec.Containers {
		for j, port := range c.spec.Containers[i].Ports {
			if (c.pod != nil || port.HostPort != 0) && port.HostPort != port.ContainerPort {
				errs = append(errs, field.Invalid(specPath.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"), port.HostPort,
					"must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	return errs
}

// validateHostUsers: a user namespace of its own and other namespaces of the host do not go together.
func validateHostUsers(spec *corev1.PodSpec, specPath *field.Path) field.ErrorList {
	if spec.HostUsers == nil || *spec.HostUsers {
		return nil
	}
	var errs field.ErrorList
	const message = "when `hostUsers` is false"
	visitContainers(spec, func(list string, i int, c *corev1.Container) {
		if len(c.VolumeDevices) > 0 {
			errs = append(errs, field.Forbidden(specPath.Child(list).Index(i).Child("volumeDevices"), message))
		}
	})
	if spec.HostNetwork {
		errs = append(errs, field.Forbidden(specPath.Child("hostNetwork"), message))
	}
	if spec.HostIPC {
		errs = append(errs, field.Forbidden(specPath.Child("HostIPC"), message))
	}
	if spec.HostPID {
		errs = append(errs, field.Forbidden(specPath.Child("HostPID"), message))
	}
	return errs
}

const (
	sysctlFormat    = "([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
	sysctlMaxLength = 253
)

var sysctlName = regexp.MustCompile("^" + sysctlFormat + "$")

func validateSysctls(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, sysctl := range spec.SecurityContext.Sysctls {
		at := path.Index(i).Child("name")
		// Slashes and dots are two ways to write one name.
		name := dottedSysctl(sysctl.Name)
		switch {
		case sysctl.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(sysctl.Name) > sysctlMaxLength || !sysctlName.MatchString(sysctl.Name):
			errs = append(errs, field.Invalid(at, sysctl.Name, fmt.Sprintf("must have at most %d characters and match regex %s", sysctlMaxLength, sysctlName)))
		case seen.Has(name):
			errs = append(errs, field.Duplicate(at, sysctl.Name))
		}
		seen.Insert(name)
		if spec.HostNetwork && strings.HasPrefix(name, "net.") {
			errs = append(errs, field.Invalid(at, sysctl.Name, "may not be specified when 'hostNetwork' is true"))
		}
		if spec.HostIPC && (strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")) {
			errs = append(errs, field.Invalid(at, sysctl.Name, "may not be specified when 'hostIPC' is true"))
		}
	}
	return errs
}

// dottedSysctl turns net/ipv4/conf/eth0.1/x into net.ipv4.conf.eth0/1.x: the first separator tells which form it is.
func dottedSysctl(name string) string {
	i := strings.IndexAny(name, "./")
	if i < 0 || name[i] == '.' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

func validateSeccomp(profile *corev1.SeccompProfile, path *field.Path) field.ErrorList {
	if profile == nil {
		return nil
	}
	at := path.Child("localhostProfile")
	if profile.Type == corev1.SeccompProfileTypeLocalhost {
		if profile.LocalhostProfile == nil {
			return field.ErrorList{field.Required(at, "must be set when seccomp type is Localhost")}
		}
		return validate.DescendingPath(*profile.LocalhostProfile, at)
	}
	var errs field.ErrorList
	if profile.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "type is required when seccompProfile is set"))
	} else {
		errs = append(errs, validate.OneOf(profile.Type, path.Child("type"), corev1.SeccompProfileTypeLocalhost,
			corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)...)
	}
	if profile.LocalhostProfile != nil {
		errs = append(errs, field.Invalid(at, profile, "can only be set when seccomp type is Localhost"))
	}
	return errs
}

const appArmorMaxLength = 4095 // PATH_MAX-1

func validateAppArmor(profile *corev1.AppArmorProfile, path *field.Path) field.ErrorList {
	if profile == nil {
		return nil
	}
	var errs field.ErrorList
	at := path.Child("localhostProfile")
	switch profile.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		name := ptr.Deref(profile.LocalhostProfile, "")
		trimmed := strings.TrimSpace(name)
		if trimmed == "" {
			return append(errs, field.Required(at, "must be set when AppArmor type is Localhost"))
		}
		if trimmed != name {
			errs = append(errs, field.Invalid(at, name, "must not be padded with whitespace"))
		}
		if len(name) > appArmorMaxLength {
			errs = append(errs, field.TooLong(at, name, appArmorMaxLength))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if profile.LocalhostProfile != nil {
			errs = append(errs, field.Invalid(at, *profile.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
		}
	case "":
		errs = append(errs, field.Required(path.Child("type"), "type is required when appArmorProfile is set"))
	default:
		errs = append(errs, validate.OneOf(profile.Type, path.Child("type"), corev1.AppArmorProfileTypeLocalhost,
			corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)...)
	}
	return errs
}

// validateSecurityContext checks the security context of one container.
func validateSecurityContext(c *podContext, sc *corev1.SecurityContext, path *field.Path) field.ErrorList {
	if sc == nil {
		return nil
	}
	errs := userID(sc.RunAsUser, path.Child("runAsUser"))
	errs = append(errs, groupID(sc.RunAsGroup, path.Child("runAsGroup"))...)
	if sc.ProcMount != nil {
		at := path.Child("procMount")
		errs = append(errs, validate.OneOf(*sc.ProcMount, at, corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		if c.hostUsers && *sc.ProcMount == corev1.UnmaskedProcMount {
			errs = append(errs, field.Invalid(at, sc.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	errs = append(errs, validateSeccomp(sc.SeccompProfile, path.Child("seccompProfile"))...)
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		if ptr.Deref(sc.Privileged, false) {
			errs = append(errs, field.Invalid(path, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if sc.Capabilities != nil {
			for _, capability := range sc.Capabilities.Add {
				if capability == "CAP_SYS_ADMIN" {
					errs = append(errs, field.Invalid(path, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	errs = append(errs, validateWindowsOptions(sc.WindowsOptions, path.Child("windowsOptions"))...)
	return append(errs, validateAppArmor(sc.AppArmorProfile, path.Child("appArmorProfile"))...)
}
