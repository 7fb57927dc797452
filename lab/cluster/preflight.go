package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// minFree is the space in bytes that a small cluster fills with images and its database.
const minFree = 2 << 30

// Preflight checks what a cluster needs of the machine, before anything is changed. All that is missing is said at once.
func Preflight(bundle string) error {
	if os.Geteuid() != 0 {
		return errors.New("a cluster needs root: it makes namespaces, mounts and network interfaces (try again with sudo)")
	}
	var all error
	for _, check := range preflight {
		all = errors.Join(all, check.run(bundle))
	}
	return all
}

// preflight is what a cluster needs of the machine, in the order in which it is told.
var preflight = []struct {
	name string
	run  func(bundle string) error
}{
	{"programs", checkPrograms},
	{"nftables", func(string) error { return checkTool("nft", "nftables") }},
	{"overlay file system", func(string) error { return checkFilesystem("overlay") }},
	{"control groups", func(string) error { return checkCgroups() }},
	{"namespaces", func(string) error { return checkNamespaces() }},
	{"disk", func(string) error { return checkDisk() }},
	{"registry port", func(string) error { return checkRegistryPort() }},
}

func checkPrograms(bundle string) error {
	for _, name := range []string{"keelson", "keelson-node", "containerd", "containerd-shim-runc-v2", "runc", "cni/ptp", "images/index.json"} {
		if _, err := os.Stat(filepath.Join(bundle, name)); err != nil {
			return fmt.Errorf("%s is not in %s: unpack the whole archive there, or run make build", name, bundle)
		}
	}
	return nil
}

func checkTool(name, aptPackage string) error {
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Errorf("%s is not installed: apt-get install %s", name, aptPackage)
	}
	return nil
}

// checkFilesystem mounts nothing: it asks the kernel for a file system context, which loads the module if it must.
func checkFilesystem(name string) error {
	context, err := unix.Fsopen(name, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("this kernel has no %s file system: %w", name, err)
	}
	return unix.Close(context)
}

func checkCgroups() error {
	if text, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		have := strings.Fields(string(text))
		for _, controller := range []string{"cpu", "memory", "pids"} {
			if !slices.Contains(have, controller) {
				return fmt.Errorf("cgroup controller %s is not on; the kernel has %s", controller, strings.Join(have, ", "))
			}
		}
		return nil
	}
	for _, controller := range []string{"cpu", "memory", "pids", "devices", "freezer"} {
		if _, err := os.Stat("/sys/fs/cgroup/" + controller); err != nil {
			return fmt.Errorf("cgroup controller %s is not mounted below /sys/fs/cgroup", controller)
		}
	}
	return nil
}

func checkNamespaces() error {
	for _, kind := range []string{"net", "pid", "mnt", "uts", "ipc", "cgroup"} {
		if _, err := os.Stat("/proc/self/ns/" + kind); err != nil {
			return fmt.Errorf("this kernel has no %s namespaces", kind)
		}
	}
	return nil
}

// checkRegistryPort finds a program that listens on the registry's port at every address: the registry could not have it at its own.
func checkRegistryPort() error {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.254.254.254", registryPort)) //nolint:noctx // it does not wait
	if err != nil {
		return fmt.Errorf("port %s is taken on every address of this machine, and the image registry needs it: %w", registryPort, err)
	}
	return listener.Close()
}

func checkDisk() error {
	home := Home()
	for {
		var stat unix.Statfs_t
		err := unix.Statfs(home, &stat)
		if errors.Is(err, unix.ENOENT) && home != "/" {
			home = filepath.Dir(home)
			continue
		}
		if err != nil {
			return fmt.Errorf("free space of %s: %w", home, err)
		}
		if free := stat.Bavail * uint64(stat.Bsize); free < minFree {
			return fmt.Errorf("%s has %d MiB free; a cluster needs %d MiB", home, free>>20, uint64(minFree)>>20)
		}
		return nil
	}
}
