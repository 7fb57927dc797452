package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// SlowDisk has the disk that the node is on take so many writes a second of the node, 0 for as many as it can. On cgroup v1 each group of
// processes (the node's services, each container that runs by now) has that many of its own. A node that starts anew is not slow.
// It is an error if the node has no disk: on tmpfs, or on a filesystem that spans several disks.
func (n *Node) SlowDisk(writes int) error {
	disk, err := diskOf(n.Dir, "/sys/dev/block")
	if err != nil {
		return fmt.Errorf("slow disk of %s: %w", n.Name, err)
	}
	v1 := "/sys/fs/cgroup/blkio" + n.cgroup()
	if _, err := os.Stat(v1); err == nil {
		return filepath.WalkDir(v1, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				err = os.WriteFile(filepath.Join(path, "blkio.throttle.write_iops_device"), fmt.Appendf(nil, "%s %d", disk, writes), 0)
			}
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) && writes == 0 {
				return nil // a container has ended
			}
			return err
		})
	}
	limit := "max"
	if writes > 0 {
		limit = fmt.Sprint(writes)
	}
	err = os.WriteFile("/sys/fs/cgroup"+n.cgroup()+"/io.max", fmt.Appendf(nil, "%s wiops=%s", disk, limit), 0)
	if errors.Is(err, fs.ErrNotExist) && writes == 0 {
		return nil // the node is off
	}
	return err
}

// diskOf returns MAJOR:MINOR of the whole disk that a folder's filesystem is on, according to the kernel's list of block devices.
func diskOf(dir, devices string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	return wholeDisk(fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev)), devices)
}

// wholeDisk leads from a partition to its disk: the kernel limits disks only.
func wholeDisk(device, devices string) (string, error) {
	path, err := filepath.EvalSymlinks(filepath.Join(devices, device))
	if err != nil {
		return "", errors.New("its filesystem is not on one disk (tmpfs, or several disks)")
	}
	switch _, err := os.Stat(filepath.Join(path, "partition")); {
	case errors.Is(err, fs.ErrNotExist):
		return device, nil
	case err != nil:
		return "", fmt.Errorf("device %s: %w", device, err)
	}
	number, err := os.ReadFile(filepath.Join(filepath.Dir(path), "dev"))
	if err != nil {
		return "", fmt.Errorf("disk of partition %s: %w", device, err)
	}
	return strings.TrimSpace(string(number)), nil
}
