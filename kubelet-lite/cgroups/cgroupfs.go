package cgroups

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	removeTimeout = 5 * time.Second
	// removeInterval: cgroup v1 tells nobody when the last process has left.
	removeInterval = 5 * time.Millisecond
)

// hierarchy is where the controllers are mounted.
type hierarchy struct {
	v2          bool
	mountpoint  string
	controllers map[string]string // v1: controller or name=… → mount point
}

// detect reads the mounts below mountpoint. A hybrid layout, where a v2 tree without controllers lies beside v1, counts as v1.
func detect(mountpoint string) (hierarchy, error) {
	var fsInfo unix.Statfs_t
	if err := unix.Statfs(mountpoint, &fsInfo); err != nil {
		return hierarchy{}, &os.PathError{Op: "statfs", Path: mountpoint, Err: err}
	}
	if fsInfo.Type == unix.CGROUP2_SUPER_MAGIC {
		return hierarchy{v2: true, mountpoint: mountpoint}, nil
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return hierarchy{}, err
	}
	defer func() { _ = f.Close() }()
	tree := hierarchy{mountpoint: mountpoint, controllers: map[string]string{}}
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		left, right, _ := strings.Cut(scanner.Text(), " - ")
		fields, tail := strings.Fields(left), strings.Fields(right)
		if len(fields) < 5 || len(tail) < 3 || tail[0] != "cgroup" || !strings.HasPrefix(fields[4], mountpoint+"/") {
			continue
		}
		for option := range strings.SplitSeq(tail[2], ",") {
			if v1Controllers[option] || strings.HasPrefix(option, "name=") {
				tree.controllers[option] = fields[4]
			}
		}
	}
	for _, need := range []string{"cpu", "memory"} {
		if tree.controllers[need] == "" {
			return hierarchy{}, fmt.Errorf("no cgroup v2 and no v1 controller %q below %s", need, mountpoint)
		}
	}
	return tree, nil
}

// v1Controllers are those a group is made in; the runtime makes the rest itself, and RemovePod removes from all of them.
var v1Controllers = map[string]bool{
	"cpu": true, "cpuacct": true, "cpuset": true, "memory": true, "pids": true, "hugetlb": true,
	"devices": true, "freezer": true, "blkio": true, "net_cls": true, "net_prio": true, "perf_event": true, "rdma": true, "misc": true,
}

// mounts are the distinct mount points.
func (h hierarchy) mounts() []string {
	if h.v2 {
		return []string{h.mountpoint}
	}
	var all []string
	for _, mount := range h.controllers {
		all = append(all, mount)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (h hierarchy) path(controller, dir string) (string, bool) {
	if h.v2 {
		return filepath.Join(h.mountpoint, dir), true
	}
	mount, ok := h.controllers[controller]
	return filepath.Join(mount, dir), ok
}

// cgroupfs is the driver that writes the file system itself.
type cgroupfs struct{ hierarchy }

func (c cgroupfs) dir(g group) string    { return "/" + strings.Join(g, "/") }
func (c cgroupfs) parent(g group) string { return c.dir(g) }
func (c cgroupfs) uid(name string) (types.UID, bool) {
	uid, ok := strings.CutPrefix(name, "pod")
	return types.UID(uid), ok
}

func (c cgroupfs) ensure(g group, l limits) error {
	for _, mount := range c.mounts() {
		if err := c.makeDirs(mount, g); err != nil {
			return err
		}
	}
	return c.write(c.dir(g), l)
}

// makeDirs makes a group and its parents in one hierarchy. In v2 a parent hands its controllers down; in v1 a new cpuset starts
// empty and nothing could run in it.
func (c cgroupfs) makeDirs(mount string, g group) error {
	path := mount
	for _, part := range g {
		if c.v2 {
			if err := delegate(path); err != nil {
				return err
			}
		}
		path = filepath.Join(path, part)
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if mount == c.controllers["cpuset"] {
			if err := inheritCPUSet(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate enables in dir's children every controller that dir has and that is worth having.
func delegate(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	on, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	enabled := strings.Fields(string(on))
	for controller := range strings.FieldsSeq(string(have)) {
		if slices.Contains(enabled, controller) {
			continue
		}
		err := writeFile(filepath.Join(dir, "cgroup.subtree_control"), "+"+controller)
		// Some cannot be delegated from where we are, for example rt in use or processes in dir; what is needed shows on write.
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

func inheritCPUSet(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(own)) != "" {
			continue
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, file), strings.TrimSpace(string(parent))); err != nil {
			return err
		}
	}
	return nil
}

func (c cgroupfs) write(dir string, l limits) error {
	values := l.values(c.v2)
	for _, file := range sortedFiles(values) {
		controller, _, _ := strings.Cut(file, ".")
		path, ok := c.path(controller, dir)
		if !ok {
			continue // this machine has no such controller
		}
		err := writeFile(filepath.Join(path, file), values[file])
		if errors.Is(err, fs.ErrNotExist) && (controller == "hugetlb" || controller == "pids") {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeFile must not create: in a cgroup file system that would hide a wrong name behind a permission error.
func writeFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func (c cgroupfs) remove(ctx context.Context, g group) error {
	var errs []error
	for _, mount := range c.mounts() {
		errs = append(errs, removeGroup(ctx, filepath.Join(mount, c.dir(g))))
	}
	return errors.Join(errs...)
}

// removeGroup kills all processes in a group and below, and removes the directories as the kernel lets go of them.
func removeGroup(ctx context.Context, dir string) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, removeInterval, true, func(context.Context) (bool, error) {
		dirs, err := subgroups(dir)
		if err != nil || len(dirs) == 0 {
			return true, err
		}
		last = nil
		for _, d := range dirs {
			if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
				last = &os.PathError{Op: "rmdir", Path: d, Err: err}
				killAll(d)
			}
		}
		return last == nil, nil
	})
	if wait.Interrupted(err) && last != nil {
		return last
	}
	return err
}

// subgroups lists dir and all groups below, children first.
func subgroups(dir string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	slices.Reverse(dirs)
	return dirs, err
}

// killAll kills what is in one group. Errors do not matter: the caller looks again whether the group is empty.
func killAll(dir string) {
	if writeFile(filepath.Join(dir, "cgroup.kill"), "1") == nil {
		return
	}
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for line := range strings.FieldsSeq(string(data)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
