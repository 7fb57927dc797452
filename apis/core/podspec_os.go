package core

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/validate"
)

// validateOS checks spec.os and rejects fields that the named system does not have. Keelson's nodes run Linux; the rules for
// Windows stand because objects are judged before anybody knows where they will run.
func validateOS(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	if spec.OS == nil {
		return nil
	}
	if spec.OS.Name == "" {
		return field.ErrorList{field.Required(path.Child("os", "name"), "")}
	}
	errs := validate.OneOf(spec.OS.Name, path.Child("os"), corev1.Linux, corev1.Windows)
	switch spec.OS.Name {
	case corev1.Linux:
		return append(errs, forbidWindowsOptions(spec, path)...)
	case corev1.Windows:
		return append(errs, forbidLinuxFields(spec, path)...)
	}
	return errs
}

func forbidWindowsOptions(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	const message = "windows options cannot be set for a linux pod"
	if spec.SecurityContext != nil && spec.SecurityContext.WindowsOptions != nil {
		errs = append(errs, field.Forbidden(path.Child("securityContext", "windowsOptions"), message))
	}
	visitContainers(spec, func(list string, i int, c *corev1.Container) {
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			errs = append(errs, field.Forbidden(path.Child(list).Index(i).Child("securityContext", "windowsOptions"), message))
		}
	})
	return errs
}

// presence is a field that must not be set, and whether it is.
type presence struct {
	name string
	set  bool
}

func forbidLinuxFields(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	errs := forbid(path, []presence{
		{"hostUsers", spec.HostUsers != nil},
		{"hostPID", spec.HostPID},
		{"hostIPC", spec.HostIPC},
		{"shareProcessNamespace", spec.ShareProcessNamespace != nil},
	})
	if sc := spec.SecurityContext; sc != nil {
		errs = append(errs, forbid(path.Child("securityContext"), []presence{
			{"appArmorProfile", sc.AppArmorProfile != nil},
			{"seLinuxOptions", sc.SELinuxOptions != nil},
			{"seccompProfile", sc.SeccompProfile != nil},
			{"fsGroup", sc.FSGroup != nil},
			{"fsGroupChangePolicy", sc.FSGroupChangePolicy != nil},
			{"sysctls", len(sc.Sysctls) > 0},
			{"runAsUser", sc.RunAsUser != nil},
			{"runAsGroup", sc.RunAsGroup != nil},
			{"supplementalGroups", sc.SupplementalGroups != nil},
			{"supplementalGroupsPolicy", sc.SupplementalGroupsPolicy != nil},
			{"seLinuxChangePolicy", sc.SELinuxChangePolicy != nil},
		})...)
	}
	visitContainers(spec, func(list string, i int, c *corev1.Container) {
		sc := c.SecurityContext
		if sc == nil {
			return
		}
		errs = append(errs, forbid(path.Child(list).Index(i).Child("securityContext"), []presence{
			{"appArmorProfile", sc.AppArmorProfile != nil},
			{"seLinuxOptions", sc.SELinuxOptions != nil},
			{"seccompProfile", sc.SeccompProfile != nil},
			{"capabilities", sc.Capabilities != nil},
			{"readOnlyRootFilesystem", sc.ReadOnlyRootFilesystem != nil},
			{"privileged", sc.Privileged != nil},
			{"allowPrivilegeEscalation", sc.AllowPrivilegeEscalation != nil},
			{"procMount", sc.ProcMount != nil},
			{"runAsUser", sc.RunAsUser != nil},
			{"runAsGroup", sc.RunAsGroup != nil},
		})...)
	})
	return errs
}

func forbid(path *field.Path, fields []presence) field.ErrorList {
	var errs field.ErrorList
	for _, f := range fields {
		if f.set {
			errs = append(errs, field.Forbidden(path.Child(f.name), "cannot be set for a windows pod"))
		}
	}
	return errs
}

const (
	maxGMSASpecLength = 64 * 1024
	maxWindowsUser    = 104
	maxWindowsDomain  = 253
)

var (
	windowsControl = regexp.MustCompile(`[[:cntrl:]]+`)
	windowsDomain  = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?)*$|^[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}$`)
	windowsUser    = regexp.MustCompile(`["/\\\[\]:;|=,+*?<>@]`)
)

func validateWindowsOptions(options *corev1.WindowsSecurityContextOptions, path *field.Path) field.ErrorList {
	if options == nil {
		return nil
	}
	var errs field.ErrorList
	if options.GMSACredentialSpecName != nil {
		errs = append(errs, validate.DNSSubdomain(*options.GMSACredentialSpecName, path.Child("gmsaCredentialSpecName"))...)
	}
	if spec := options.GMSACredentialSpec; spec != nil {
		at := path.Child("gmsaCredentialSpec")
		if len(*spec) == 0 {
			errs = append(errs, field.Invalid(at, *spec, "gmsaCredentialSpec cannot be an empty string"))
		} else if len(*spec) > maxGMSASpecLength {
			errs = append(errs, field.Invalid(at, *spec, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxGMSASpecLength/1024)))
		}
	}
	if options.RunAsUserName != nil {
		errs = append(errs, windowsUserName(*options.RunAsUserName, path.Child("runAsUserName"))...)
	}
	return errs
}

func windowsUserName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Invalid(path, name, "runAsUserName cannot be an empty string")}
	}
	if windowsControl.MatchString(name) {
		return field.ErrorList{field.Invalid(path, name, "runAsUserName cannot contain control characters")}
	}
	domain, user, qualified := strings.Cut(name, `\`)
	if !qualified {
		domain, user = "", name
	}
	if strings.Contains(user, `\`) {
		return field.ErrorList{field.Invalid(path, name, "runAsUserName cannot contain more than one backslash")}
	}
	var errs field.ErrorList
	if qualified && !windowsDomain.MatchString(domain) {
		errs = append(errs, field.Invalid(path, name, "runAsUserName's Domain doesn't match the NetBIOS nor the DNS format"))
	}
	if len(domain) > maxWindowsDomain {
		errs = append(errs, field.Invalid(path, name, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", maxWindowsDomain+1)))
	}
	switch {
	case user == "":
		errs = append(errs, field.Invalid(path, name, "runAsUserName's User cannot be empty"))
	case len(user) > maxWindowsUser:
		errs = append(errs, field.Invalid(path, name, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", maxWindowsUser)))
	case strings.Trim(user, ". ") == "":
		errs = append(errs, field.Invalid(path, name, "runAsUserName's User cannot contain only periods or spaces"))
	}
	if windowsUser.MatchString(user) {
		errs = append(errs, field.Invalid(path, name, fmt.Sprintf("runAsUserName's User cannot contain the following characters: %s", `"/\:;|=,+*?<>@[]`)))
	}
	return errs
}

// validateHostProcess: host-process containers of Windows come all or none, in the host's network.
func validateHostProcess(spec *corev1.PodSpec, specPath *field.Path) field.ErrorList {
	var podWide *bool
	if o := spec.SecurityContext.WindowsOptions; o != nil {
		podWide = o.HostProcess
	}
	total, hostProcess := 0, 0
	var errs field.ErrorList
	visitContainers(spec, func(list string, i int, c *corev1.Container) {
		total++
		own := podWide
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil && c.SecurityContext.WindowsOptions.HostProcess != nil {
			own = c.SecurityContext.WindowsOptions.HostProcess
			if podWide != nil && *podWide != *own {
				errs = append(errs, field.Invalid(specPath.Child(list).Index(i).Child("securityContext", "windowsOptions", "hostProcess"), *own,
					fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *podWide)))
			}
		}
		if ptr.Deref(own, false) {
			hostProcess++
		}
	})
	if hostProcess == 0 {
		return errs
	}
	if hostProcess != total {
		errs = append(errs, field.Invalid(specPath, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !spec.HostNetwork {
		errs = append(errs, field.Invalid(specPath.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}

// lowerFirst turns a Go field name into the API's.
func lowerFirst(name string) string {
	r, size := utf8.DecodeRuneInString(name)
	return string(unicode.ToLower(r)) + name[size:]
}
