// Package host prepares the machine, or the container that stands for one, in which a node's services are about to start.
package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctls are what pod networking and the kubelet's promises need. Those that a kernel does not have are passed over.
var sysctls = []struct{ name, value string }{
	{"net/ipv4/ip_forward", "1"},
	{"net/ipv6/conf/all/forwarding", "1"},
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/all/accept_redirects", "0"}, // routes come from Node objects and from the machine's owner
	{"vm/overcommit_memory", "1"},
	{"kernel/panic", "10"},
}

// minInotify is how many inotify instances root's programs may have: on cgroup v2 a shim needs one for each container, and Debian grants
// 128 to the whole machine.
const minInotify = 8192

// Prepare makes every mount shared, so that volumes propagate into containers and back, sets the sysctls, and on cgroup v2 moves
// this process out of the way of delegation.
func Prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	for _, s := range sysctls {
		// Read-only or absent settings are the machine's choice: what depends on one says so itself.
		_ = os.WriteFile("/proc/sys/"+s.name, []byte(s.value), 0o644)
	}
	const instances = "/proc/sys/fs/inotify/max_user_instances"
	text, err := os.ReadFile(instances)
	if now, _ := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && now < minInotify {
		_ = os.WriteFile(instances, []byte(strconv.Itoa(minInotify)), 0o644)
	}
	return delegateControllers("/sys/fs/cgroup")
}

// delegateControllers enables every cgroup v2 controller for children of root. The kernel allows that only to a group without
// processes of its own, so those move to a leaf. On cgroup v1 there is nothing to do.
func delegateControllers(root string) error {
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read cgroup controllers: %w", err)
	}
	leaf := filepath.Join(root, "init")
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return fmt.Errorf("make leaf cgroup: %w", err)
	}
	processes, err := os.ReadFile(filepath.Join(root, "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("read cgroup processes: %w", err)
	}
	for pid := range strings.FieldsSeq(string(processes)) {
		if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(pid), 0o644); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("move process %s to leaf cgroup: %w", pid, err)
		}
	}
	for controller := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return fmt.Errorf("delegate cgroup controller %s: %w", controller, err)
		}
	}
	return nil
}
