package volumes

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// This file is the only one that changes the mount table.

// mountPoint is one line of /proc/self/mountinfo.
type mountPoint struct {
	path   string
	fstype string
	source string
	shared bool
}

// mountsUnder lists the mounts at or below dir, deepest and newest first, which is the order in which they can be undone.
func mountsUnder(dir string) ([]mountPoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var found []mountPoint
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		mp, ok := parseMount(scanner.Text())
		if ok && (mp.path == dir || dir == "/" || strings.HasPrefix(mp.path, dir+"/")) {
			found = append(found, mp)
		}
	}
	slices.Reverse(found)
	slices.SortStableFunc(found, func(a, b mountPoint) int {
		return cmp.Compare(strings.Count(b.path, "/"), strings.Count(a.path, "/"))
	})
	return found, scanner.Err()
}

var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// parseMount reads a line as proc(5) describes it: id parent major:minor root mountpoint options [tags…] - fstype source super.
func parseMount(line string) (mountPoint, bool) {
	left, right, ok := strings.Cut(line, " - ")
	fields, tail := strings.Fields(left), strings.Fields(right)
	if !ok || len(fields) < 6 || len(tail) < 2 {
		return mountPoint{}, false
	}
	tagged := func(s string) bool { return strings.HasPrefix(s, "shared:") }
	return mountPoint{
		path: unescapeMount.Replace(fields[4]), fstype: tail[0], source: unescapeMount.Replace(tail[1]),
		shared: slices.ContainsFunc(fields[6:], tagged),
	}, true
}

func isMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	if err != nil {
		return false, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	mounts, err := mountsUnder(path)
	return err == nil && slices.ContainsFunc(mounts, func(mp mountPoint) bool { return mp.path == path }), err
}

// prepareRoot makes the root directory a shared mount, so that what a container mounts with Bidirectional propagation comes out
// and what is mounted here reaches containers.
func prepareRoot(root string) error {
	if err := os.MkdirAll(filepath.Join(root, "pods"), 0o750); err != nil {
		return err
	}
	mounts, err := mountsUnder("/")
	if err != nil {
		return fmt.Errorf("read mount table: %w", err)
	}
	best := mountPoint{}
	for _, mp := range slices.Backward(mounts) {

		within := mp.path == "/" || root == mp.path || strings.HasPrefix(root, mp.path+"/")
		if within && len(mp.path) >= len(best.path) {
			best = mp
		}
	}
	if best.shared {
		return nil
	}
	if best.path != root {
		if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s on itself: %w", root, err)
		}
	}
	if err := unix.Mount("", root, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make %s shared: %w", root, err)
	}
	return nil
}

func ensureDir(dir string) error {
	// Plugin directories are 0750; the volume's own mode is set by the caller.
	return os.MkdirAll(dir, 0o750)
}

// noSwapUnsupported remembers that the kernel refused noswap, which exists since Linux 6.4.
var noSwapUnsupported atomic.Bool

// ensureTmpfs mounts a tmpfs at dir unless one is there. Its pages are kept off the swap where the kernel can do that.
func ensureTmpfs(dir, options string) error {
	if err := ensureDir(dir); err != nil {
		return err
	}
	if mounted, err := isMountPoint(dir); err != nil || mounted {
		return err
	}
	if !noSwapUnsupported.Load() {
		err := unix.Mount("tmpfs", dir, "tmpfs", 0, joinOptions(options, "noswap"))
		if !errors.Is(err, unix.EINVAL) {
			return wrapMount(dir, err)
		}
		noSwapUnsupported.Store(true)
	}
	return wrapMount(dir, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
}

func wrapMount(dir string, err error) error {
	if err != nil {
		return fmt.Errorf("mount at %s: %w", dir, err)
	}
	return nil
}

func joinOptions(options ...string) string {
	return strings.Join(slices.DeleteFunc(options, func(s string) bool { return s == "" }), ",")
}

// bindMount mounts source at target; readOnly needs a second step, as the kernel ignores the flag on the first.
func bindMount(source, target string, readOnly bool) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return wrapMount(target, err)
	}
	if !readOnly {
		return nil
	}
	return wrapMount(target, unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
}

// unmountAll undoes every mount at or below dir.
func unmountAll(dir string) error {
	for range 8 { // mounts may be stacked or appear from a container that is ending
		mounts, err := mountsUnder(dir)
		if err != nil || len(mounts) == 0 {
			return err
		}
		var errs []error
		for _, mp := range mounts {
			errs = append(errs, unmount(mp.path))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return fmt.Errorf("mounts keep coming back below %s", dir)
}

// unmount detaches a mount that is busy: its path is free then, and the kernel lets go of it with its last user.
func unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not mounted any more
		return nil
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// removeTree removes a directory tree, but never what lies on another file system: a mount that survived must not lose its data.
func removeTree(dir string) error {
	mounts, err := mountsUnder(dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s is still mounted", mounts[0].path)
	}
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
