package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a container that does not ask for procMount: Unmasked must not see or write.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// AppArmorEnabled reports whether this kernel enforces AppArmor, and profiles can be loaded from here: a lab node sees no securityfs, and the
// runtime then refuses every profile. Without it the field must be left out altogether.
func AppArmorEnabled() bool {
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err != nil {
		return false
	}
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(data), "Y")
}

// effectiveSecurity is the container's security context with the pod's filled in where the container says nothing.
func effectiveSecurity(pod *corev1.Pod, c *corev1.Container) *corev1.SecurityContext {
	out := &corev1.SecurityContext{}
	if c.SecurityContext != nil {
		out = c.SecurityContext.DeepCopy()
	}
	p := pod.Spec.SecurityContext
	if p == nil {
		return out
	}
	fill(&out.RunAsUser, p.RunAsUser)
	fill(&out.RunAsGroup, p.RunAsGroup)
	fill(&out.RunAsNonRoot, p.RunAsNonRoot)
	fill(&out.SELinuxOptions, p.SELinuxOptions)
	fill(&out.SeccompProfile, p.SeccompProfile)
	fill(&out.AppArmorProfile, p.AppArmorProfile)
	return out
}

func fill[T any](field **T, value *T) {
	if *field == nil {
		*field = value
	}
}

// ImageUser is the user that an image asks to run as.
type ImageUser struct {
	UID  *int64
	Name string // when the image gives a name, or name and no number
}

// verifyNonRoot refuses a container that must not be root but would be, or might be.
func verifyNonRoot(sc *corev1.SecurityContext, image ImageUser) error {
	if sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot {
		return nil
	}
	switch {
	case sc.RunAsUser != nil && *sc.RunAsUser == 0:
		return errors.New("container's runAsUser breaks non-root policy")
	case sc.RunAsUser != nil:
		return nil
	case image.UID != nil && *image.UID == 0:
		return errors.New("container has runAsNonRoot and image will run as root")
	case image.UID == nil && image.Name != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root", image.Name)
	}
	return nil
}

func (n *Node) containerSecurity(pod *corev1.Pod, c *corev1.Container, image ImageUser, target string) (*runtimeapi.LinuxContainerSecurityContext, error) {
	sc := effectiveSecurity(pod, c)
	if err := verifyNonRoot(sc, image); err != nil {
		return nil, fmt.Errorf("%w (pod: %q, container: %s)", err, pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
	}
	namespaces, err := n.namespaces(pod)
	if err != nil {
		return nil, err
	}
	if target != "" {
		namespaces.Pid, namespaces.TargetId = runtimeapi.NamespaceMode_TARGET, target
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions:         namespaces,
		Privileged:               isTrue(sc.Privileged),
		ReadonlyRootfs:           isTrue(sc.ReadOnlyRootFilesystem),
		NoNewPrivs:               sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		SupplementalGroups:       supplementalGroups(pod),
		SupplementalGroupsPolicy: groupsPolicy(pod),
		Seccomp:                  n.seccomp(sc.SeccompProfile),
		Apparmor:                 n.apparmor(sc.AppArmorProfile),
		SelinuxOptions:           selinux(sc.SELinuxOptions),
		RunAsGroup:               int64Value(sc.RunAsGroup),
	}
	switch {
	case sc.RunAsUser != nil:
		out.RunAsUser = int64Value(sc.RunAsUser)
	case image.UID != nil:
		out.RunAsUser = int64Value(image.UID)
	default:
		out.RunAsUsername = image.Name
	}
	if caps := sc.Capabilities; caps != nil {
		out.Capabilities = &runtimeapi.Capability{AddCapabilities: capabilities(caps.Add), DropCapabilities: capabilities(caps.Drop)}
	}
	if sc.ProcMount == nil || *sc.ProcMount != corev1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	return out, nil
}

func capabilities(caps []corev1.Capability) []string {
	out := make([]string, 0, len(caps))
	for _, c := range caps {
		out = append(out, string(c))
	}
	return out
}

func (n *Node) sandboxSecurity(pod *corev1.Pod) (*runtimeapi.LinuxSandboxSecurityContext, error) {
	namespaces, err := n.namespaces(pod)
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions:         namespaces,
		Privileged:               hasPrivileged(pod),
		Seccomp:                  &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		SupplementalGroups:       supplementalGroups(pod),
		SupplementalGroupsPolicy: groupsPolicy(pod),
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		out.RunAsUser, out.RunAsGroup, out.SelinuxOptions = int64Value(sc.RunAsUser), int64Value(sc.RunAsGroup), selinux(sc.SELinuxOptions)
	}
	return out, nil
}

func hasPrivileged(pod *corev1.Pod) bool {
	privileged := func(c *corev1.Container) bool {
		return c.SecurityContext != nil && isTrue(c.SecurityContext.Privileged)
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if privileged(&list[i]) {
				return true
			}
		}
	}
	return false
}

func (n *Node) namespaces(pod *corev1.Pod) (*runtimeapi.NamespaceOption, error) {
	out := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		out.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		out.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		out.Pid = runtimeapi.NamespaceMode_NODE
	case isTrue(pod.Spec.ShareProcessNamespace):
		out.Pid = runtimeapi.NamespaceMode_POD
	}
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		if n.UserNamespaces == nil {
			return nil, errors.New("user namespaces are not available on this node")
		}
		mapping, err := n.UserNamespaces.Mapping(pod.UID)
		if err != nil {
			return nil, err
		}
		out.UsernsOptions = &runtimeapi.UserNamespace{
			Mode: runtimeapi.NamespaceMode_POD,
			Uids: []*runtimeapi.IDMapping{mapping}, Gids: []*runtimeapi.IDMapping{mapping},
		}
	}
	return out, nil
}

func supplementalGroups(pod *corev1.Pod) []int64 {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	groups := append([]int64(nil), sc.SupplementalGroups...)
	if sc.FSGroup != nil {
		groups = append(groups, *sc.FSGroup)
	}
	return groups
}

func groupsPolicy(pod *corev1.Pod) runtimeapi.SupplementalGroupsPolicy {
	if sc := pod.Spec.SecurityContext; sc != nil && sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		return runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return runtimeapi.SupplementalGroupsPolicy_Merge
}

func (n *Node) seccomp(p *corev1.SeccompProfile) *runtimeapi.SecurityProfile {
	if p == nil {
		if n.SeccompDefault {
			return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	switch p.Type {
	case corev1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case corev1.SeccompProfileTypeLocalhost:
		ref := ""
		if p.LocalhostProfile != nil {
			ref = filepath.Join(n.RootDir, "seccomp", *p.LocalhostProfile)
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ref}
	default:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
}

func (n *Node) apparmor(p *corev1.AppArmorProfile) *runtimeapi.SecurityProfile {
	if p == nil || !n.AppArmor {
		return nil
	}
	switch p.Type {
	case corev1.AppArmorProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case corev1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile != nil {
			return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}
		}
	default:
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
}

func selinux(o *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func int64Value(v *int64) *runtimeapi.Int64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *v}
}

func isTrue(b *bool) bool { return b != nil && *b }
