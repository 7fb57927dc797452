package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"keelson.dev/lab/supervisor"
)

// prepare makes the node's folders, mounts its root and writes what its first process and runc read.
func (n *Node) prepare(services []supervisor.Service) error {
	for _, dir := range append([]string{"upper", "work", "rootfs"}, prefixed("state", stateDirs)...) {
		if err := os.MkdirAll(filepath.Join(n.Dir, dir), 0o755); err != nil {
			return err
		}
	}
	for dir, mode := range map[string]fs.FileMode{"/tmp": 0o777 | fs.ModeSticky, "/var/lib/keelson": 0o700} {
		if err := os.Chmod(n.StatePath(dir), mode); err != nil {
			return err
		}
	}
	if err := n.writeResolver(); err != nil {
		return err
	}
	if err := n.writeHosts("/etc/hosts"); err != nil {
		return err
	}
	if err := n.mountRoot(); err != nil {
		return err
	}
	if err := writeJSON(n.StatePath(servicesFile), services); err != nil {
		return err
	}
	spec, err := n.spec()
	if err != nil {
		return err
	}
	return writeJSON(filepath.Join(n.Dir, "config.json"), spec)
}

// writeResolver gives the node a resolver configuration that holds in its network: on the machine that may be a link into /run, name
// a server on the loopback interface, or be missing.
func (n *Node) writeResolver() error {
	var texts []string
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		texts = append(texts, string(text))
	}
	path := filepath.Join(n.Dir, "upper/etc/resolv.conf")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(resolver(n.Network.Gateway(), texts...)), 0o644)
}

// writeHosts gives the node a table of hosts where the machine has none, as a bare Debian without netbase: containerd copies it for every pod.
func (n *Node) writeHosts(machines string) error {
	path := filepath.Join(n.Dir, "upper/etc/hosts")
	if _, err := os.Stat(machines); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err // of an earlier start
	}
	return os.WriteFile(path, []byte("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"), 0o644)
}

// resolver is the first of the configurations that names servers beyond the loopback interface, without those on it. Is there none, the
// gateway stands for one: it refuses, while DNS servers do not even start without anybody to ask.
func resolver(gateway netip.Addr, configurations ...string) string {
	for _, text := range configurations {
		var kept strings.Builder
		servers := 0
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) > 1 && fields[0] == "nameserver" {
				address, err := netip.ParseAddr(fields[1])
				if err != nil || address.IsLoopback() {
					continue
				}
				servers++
			}
			kept.WriteString(line)
		}
		if servers > 0 {
			return kept.String()
		}
	}
	return "nameserver " + gateway.String() + "\n"
}

func (n *Node) mountRoot() error {
	if err := n.unmountRoot(); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=/,upperdir=%s,workdir=%s", filepath.Join(n.Dir, "upper"), filepath.Join(n.Dir, "work"))
	if err := unix.Mount("overlay", filepath.Join(n.Dir, "rootfs"), "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay of the machine's root: %w", err)
	}
	return nil
}

// unmountRoot is safe to call when nothing is mounted.
func (n *Node) unmountRoot() error {
	err := unix.Unmount(filepath.Join(n.Dir, "rootfs"), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount root: %w", err)
	}
	return nil
}

// unmountBelow detaches every mount below dir, the deepest first.
func unmountBelow(dir string) error {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			points = append(points, fields[1])
		}
	}
	slices.Sort(points)
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

// removeCgroups removes the node's group, and what its pods left below it, from every hierarchy.
func removeCgroups(group string) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*" + group)
	if err != nil {
		return err
	}
	var all []string
	for _, root := range append(roots, "/sys/fs/cgroup"+group) {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				all = append(all, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, dir := range slices.Backward(all) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	for _, root := range append(roots, "/sys/fs/cgroup"+group) {
		for _, above := range []string{filepath.Dir(root), filepath.Dir(filepath.Dir(root))} {
			_ = os.Remove(above) // goes with its last node
		}
	}
	return nil
}

func prefixed(prefix string, paths []string) []string {
	joined := make([]string, len(paths))
	for i, path := range paths {
		joined[i] = filepath.Join(prefix, path)
	}
	return joined
}

func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return os.WriteFile(path, data, 0o600)
}
