package volumes

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// What a volume's group may do, as documented for fsGroup: read always, write unless the volume is read-only, enter
// directories, and new files belong to the group as well.
const (
	groupReadWrite = 0o660
	groupRead      = 0o440
	groupEnter     = 0o110
)

func (o owner) fileMode(mode fs.FileMode) fs.FileMode {
	if o.fsGroup == nil {
		return mode.Perm()
	}
	return mode.Perm() | o.mask()
}

func (o owner) mask() fs.FileMode {
	if o.readOnly {
		return groupRead
	}
	return groupReadWrite
}

// setDir gives a directory its mode, widened for the group if there is one.
func (o owner) setDir(path string, mode fs.FileMode) error {
	if o.fsGroup == nil {
		return os.Chmod(path, mode)
	}
	if err := os.Lchown(path, -1, int(*o.fsGroup)); err != nil {
		return err
	}
	return os.Chmod(path, mode|o.mask()|groupEnter|fs.ModeSetgid)
}

// apply gives everything below root to the group. With onMismatch it does so only if root itself is not as it should be.
func (o owner) apply(root string, onMismatch bool) error {
	if o.fsGroup == nil {
		return nil
	}
	if onMismatch && o.matches(root) {
		return nil
	}
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if entry.IsDir() {
			dirs = append(dirs, path)
			return nil
		}
		return o.applyFile(path, entry)
	})
	// The root comes last: it is what OnRootMismatch looks at after an interrupted walk.
	for i := len(dirs) - 1; err == nil && i >= 0; i-- {
		var info fs.FileInfo
		if info, err = os.Lstat(dirs[i]); err == nil {
			err = o.setDir(dirs[i], info.Mode()&(fs.ModePerm|fs.ModeSticky|fs.ModeSetuid))
		}
	}
	return err
}

func (o owner) applyFile(path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Lchown(path, -1, int(*o.fsGroup)); err != nil {
		return err
	}
	if entry.Type()&fs.ModeSymlink != 0 {
		return nil
	}
	return os.Chmod(path, info.Mode()|o.mask())
}

func (o owner) matches(root string) bool {
	info, err := os.Lstat(root)
	if err != nil {
		return false
	}
	want := o.mask() | groupEnter
	return gidOf(info) == *o.fsGroup && info.Mode().Perm()&want == want && info.Mode()&fs.ModeSetgid != 0
}

func uidOf(info fs.FileInfo) int64 { return int64(info.Sys().(*syscall.Stat_t).Uid) }
func gidOf(info fs.FileInfo) int64 { return int64(info.Sys().(*syscall.Stat_t).Gid) }

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

func onRootMismatch(pod *corev1.Pod) bool {
	sc := pod.Spec.SecurityContext
	return sc != nil && sc.FSGroupChangePolicy != nil && *sc.FSGroupChangePolicy == corev1.FSGroupChangeOnRootMismatch
}

// soleUser is the user that all containers run as, or nil if they differ or one does not say.
func soleUser(pod *corev1.Pod) *int64 {
	var user *int64
	same := true
	eachContainer(pod, func(c *corev1.Container) {
		var own *int64
		if pod.Spec.SecurityContext != nil {
			own = pod.Spec.SecurityContext.RunAsUser
		}
		if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
			own = c.SecurityContext.RunAsUser
		}
		switch {
		case own == nil || user != nil && *user != *own:
			same = false
		default:
			user = own
		}
	})
	if !same {
		return nil
	}
	return user
}
