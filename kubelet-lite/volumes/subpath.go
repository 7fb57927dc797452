package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/kubelet-lite/podenv"
)

// A container may write to its volume while the kubelet resolves a path in it, so a path that was checked may be a symlink to
// /etc a moment later. Therefore a subPath is opened by the kernel's own resolution, which refuses to leave the volume
// (openat2 with RESOLVE_BENEATH), and what was opened, not its name, is bind-mounted where only the kubelet can write.

const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS

func openBeneath(dirfd int, path string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: beneath}
	for {
		fd, err := unix.Openat2(dirfd, path, &how)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) { // raced with a rename; the kernel asks to try again
			continue
		}
		if errors.Is(err, unix.EXDEV) {
			return -1, fmt.Errorf("path %q leaves the volume", path)
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// expandSubPath returns the relative path that a mount selects, or "" for the whole volume.
func expandSubPath(mount *corev1.VolumeMount, env []*runtimeapi.KeyValue) (string, error) {
	path := mount.SubPath
	if mount.SubPathExpr != "" {
		get := podenv.Lookup(env)
		var unknown string
		path = podenv.Expand(mount.SubPathExpr, func(name string) (string, bool) {
			value, ok := get(name)
			if !ok {
				unknown = name
			}
			return value, ok
		})
		if unknown != "" {
			return "", fmt.Errorf("missing value for %q", unknown)
		}
	}
	if filepath.IsAbs(path) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", path)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", path)
		}
	}
	return filepath.Clean("./" + path), nil
}

// bindSubPath makes the selected part of a volume appear in the pod's directory and returns where. Missing directories are
// made with the volume's own mode.
func (m *Manager) bindSubPath(pod *corev1.Pod, container string, index int, volume string, v *mounted, path string) (string, error) {
	root, err := unix.Open(v.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: v.path, Err: err}
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := openBeneath(root, path, unix.O_PATH)
	if errors.Is(err, fs.ErrNotExist) {
		fd, err = makeBeneath(root, path)
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	target := filepath.Join(m.podDir(pod.UID), "volume-subpaths", volume, container, strconv.Itoa(index))
	return target, bindDescriptor(fd, target)
}

// makeBeneath makes each missing directory of path and returns the last one, opened.
func makeBeneath(root int, path string) (int, error) {
	var rootStat unix.Stat_t
	if err := unix.Fstat(root, &rootStat); err != nil {
		return -1, fmt.Errorf("stat volume: %w", err)
	}
	parts := strings.Split(path, "/")
	fd := -1
	for i := range parts {
		prefix := strings.Join(parts[:i+1], "/")
		next, err := openBeneath(root, prefix, unix.O_PATH)
		if errors.Is(err, fs.ErrNotExist) {
			next, err = makeOne(root, filepath.Dir(prefix), parts[i], rootStat.Mode)
		}
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

func makeOne(root int, parent, name string, mode uint32) (int, error) {
	dir, err := openBeneath(root, parent, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(dir) }()
	if err := unix.Mkdirat(dir, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	made, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return -1, err
	}
	// chmod on the descriptor: mkdir's mode was cut by the umask, and setgid may have come from the parent.
	if err := unix.Fchmod(made, mode&0o7777); err != nil {
		_ = unix.Close(made)
		return -1, &os.PathError{Op: "chmod", Path: name, Err: err}
	}
	return made, nil
}

// bindDescriptor mounts what fd refers to at target, unless just that is there already.
func bindDescriptor(fd int, target string) error {
	var want, have unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return fmt.Errorf("stat subpath: %w", err)
	}
	mounted, err := isMountPoint(target)
	if ignoreNotExist(err) != nil {
		return err
	}
	if mounted {
		if err := unix.Stat(target, &have); err == nil && have.Dev == want.Dev && have.Ino == want.Ino {
			return nil
		}
		if err := unmount(target); err != nil {
			return err
		}
	}
	if err := makeTarget(target, want.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	return bindMount(fmt.Sprintf("/proc/self/fd/%d", fd), target, false)
}

// makeTarget makes an empty directory or file to mount on, in place of what an earlier container needed there.
func makeTarget(target string, dir bool) error {
	if info, err := os.Lstat(target); err == nil {
		if info.IsDir() == dir {
			return nil
		}
		if err := os.Remove(target); err != nil {
			return err
		}
	}
	if dir {
		return os.MkdirAll(target, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	return os.WriteFile(target, nil, 0o640)
}

// readBeneath reads a file inside a volume.
func readBeneath(volume, path string) ([]byte, error) {
	root, err := unix.Open(volume, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: volume, Err: err}
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := openBeneath(root, path, unix.O_RDONLY|unix.O_NONBLOCK) // a container could have put a FIFO there
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > 1<<20:
		return nil, fmt.Errorf("%s is not a regular file of at most 1 MiB", path)
	}
	data := make([]byte, info.Size())
	n, err := f.ReadAt(data, 0)
	if n < len(data) {
		return nil, err
	}
	return data, nil
}
