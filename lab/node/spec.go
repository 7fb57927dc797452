package node

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// spec is the node's container: everything that the machine has, in namespaces of its own.
func (n *Node) spec() (*specs.Spec, error) {
	capabilities, err := machineCapabilities()
	if err != nil {
		return nil, err
	}
	devices, err := machineDevices("/dev")
	if err != nil {
		return nil, err
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, fmt.Errorf("read limit of open files: %w", err)
	}
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: n.Name,
		Root:     &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{ProgramDir + "/keelson-node", servicesFile},
			Cwd:  "/",
			Env: []string{
				"PATH=" + ProgramDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
			},
			Capabilities: &specs.LinuxCapabilities{
				Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
			},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: files.Max, Soft: files.Max}},
		},
		Mounts: n.mounts(),
		Linux: &specs.Linux{
			CgroupsPath: n.cgroup(),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.CgroupNamespace},
			},
			RootfsPropagation: "shared",
			Devices:           devices,
			Resources:         &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}},
		},
	}, nil
}

// mounts are private where they show folders of the machine: systemd shares the machine's mounts, and what a node mounts in such a folder
// (the volumes of its pods) would appear on the machine and outlive the node.
func (n *Node) mounts() []specs.Mount {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "nodev", "mode=1777"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755"}},
		{Destination: ProgramDir, Type: "bind", Source: n.Bundle, Options: []string{"rbind", "rprivate", "ro"}},
	}
	if _, err := os.Stat("/lib/modules"); err == nil {
		mounts = append(mounts, specs.Mount{
			Destination: "/lib/modules", Type: "bind", Source: "/lib/modules", Options: []string{"rbind", "rprivate", "ro"},
		})
	}
	for _, dir := range stateDirs {
		mounts = append(mounts, specs.Mount{
			Destination: dir, Type: "bind", Source: filepath.Join(n.Dir, "state", dir), Options: []string{"rbind", "rprivate", "rw"},
		})
	}
	return mounts
}

// machineDevices lists the devices of the machine, to be made anew in the node: its /dev is its own, so that nothing it does there
// reaches the machine's. Terminals are left out: they belong to whoever opened them.
func machineDevices(dev string) ([]specs.LinuxDevice, error) {
	var devices []specs.LinuxDevice
	err := filepath.WalkDir(dev, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (path == dev+"/pts" || path == dev+"/shm" || path == dev+"/mqueue") {
			return filepath.SkipDir
		}
		if entry.Type()&fs.ModeDevice == 0 || strings.HasPrefix(entry.Name(), "tty") || entry.Name() == "console" || entry.Name() == "ptmx" {
			return nil
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return err
		}
		kind := "b"
		if entry.Type()&fs.ModeCharDevice != 0 {
			kind = "c"
		}
		mode := fs.FileMode(stat.Mode & 0o777)
		devices = append(devices, specs.LinuxDevice{
			Path: path, Type: kind, Major: int64(unix.Major(stat.Rdev)), Minor: int64(unix.Minor(stat.Rdev)),
			FileMode: &mode, UID: &stat.Uid, GID: &stat.Gid,
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return devices, nil
}

// machineCapabilities names the capabilities of this process's bounding set: a node gets what the machine has, no more.
func machineCapabilities() ([]string, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, fmt.Errorf("read capabilities: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		value, found := strings.CutPrefix(line, "CapBnd:")
		if !found {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("read capabilities: %w", err)
		}
		var names []string
		for bit, name := range capabilityNames {
			if mask&(1<<bit) != 0 {
				names = append(names, "CAP_"+name)
			}
		}
		return names, nil
	}
	return nil, fmt.Errorf("read capabilities: no bounding set in /proc/self/status")
}

// capabilityNames are the kernel's, by bit (capability.h).
var capabilityNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
	LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
	SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
	SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)
