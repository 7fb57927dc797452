package admit

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// safeSysctls are namespaced and cannot hurt the node or other pods.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

func sysctls(in Input) *Rejection {
	if in.Pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range in.Pod.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		reason := ""
		switch {
		case !allowed(name, in.UnsafeSysctls):
			reason = "not allowlisted"
		case usesHost(in.Pod, name):
			reason = "not allowed with host net/ipc enabled"
		}
		if reason != "" {
			return &Rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q %s", s.Name, reason)}
		}
	}
	return nil
}

func allowed(name string, unsafe []string) bool {
	return slices.Contains(safeSysctls, name) || slices.ContainsFunc(unsafe, func(pattern string) bool {
		prefix, wild := strings.CutSuffix(pattern, "*")
		return pattern == name || wild && strings.HasPrefix(name, prefix)
	})
}

func usesHost(pod *corev1.Pod, name string) bool {
	return pod.Spec.HostNetwork && strings.HasPrefix(name, "net.") || pod.Spec.HostIPC && !strings.HasPrefix(name, "net.")
}
