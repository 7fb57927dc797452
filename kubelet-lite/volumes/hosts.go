package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// writeHosts writes the pod's /etc/hosts. It keeps the inode, since running containers have it mounted.
func (m *Manager) writeHosts(pod *corev1.Pod, env MountEnv) (string, error) {
	path := filepath.Join(m.podDir(pod.UID), "etc-hosts")
	content := podHosts(env.PodIPs, env.Hostname, env.Domain, pod.Spec.HostAliases)
	if pod.Spec.HostNetwork {
		node, err := os.ReadFile(etcHosts)
		if err != nil {
			return "", err
		}
		content = nodeHosts(string(node), pod.Spec.HostAliases)
	}
	if old, err := os.ReadFile(path); err == nil && string(old) == content {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return "", err
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return "", err
	}
	return path, os.Chmod(path, 0o644)
}

// podHosts is the file of a pod with its own network. Programs and tests know it by its first line.
func podHosts(ips []string, hostname, domain string, aliases []corev1.HostAlias) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file.\n" +
		"127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"fe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\n" +
		"fe00::2\tip6-allrouters\n")
	names := hostname
	if domain != "" {
		names = domain + "\t" + hostname
	}
	for _, ip := range ips {
		fmt.Fprintf(&b, "%s\t%s\n", ip, names)
	}
	writeAliases(&b, aliases)
	return b.String()
}

// nodeHosts is the file of a pod in the node's network.
func nodeHosts(node string, aliases []corev1.HostAlias) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file (host network).\n")
	b.WriteString(node)
	writeAliases(&b, aliases)
	return b.String()
}

func writeAliases(b *strings.Builder, aliases []corev1.HostAlias) {
	if len(aliases) == 0 {
		return
	}
	b.WriteString("\n# Entries added by HostAliases.\n")
	for _, alias := range aliases {
		fmt.Fprintf(b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}
}
