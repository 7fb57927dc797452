package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A projected volume is replaced as a whole: its files lie in a directory named after the time, ..data points to that directory,
// and each name that a container sees points through ..data. To swing ..data over is one rename, so a reader sees either all of
// the old files or all of the new ones.
//
//	..2026_01_02_03_04_05.123/dir/file
//	..data -> ..2026_01_02_03_04_05.123
//	dir    -> ..data/dir

const (
	dataLink    = "..data"
	dataLinkTmp = "..data_tmp"
)

// file is one entry of a payload.
type file struct {
	data []byte
	mode fs.FileMode
	uid  *int64
}

// payload is the desired content by relative path.
type payload map[string]file

// owner is who may read a volume beside root.
type owner struct {
	fsGroup  *int64
	readOnly bool
}

// writeAtomically makes dir show exactly the payload. It reports whether anything had to change.
func writeAtomically(dir string, want payload, own owner, now time.Time) (changed bool, _ error) {
	for name := range want {
		if err := checkPayloadPath(name); err != nil {
			return false, err
		}
	}
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if current != "" && showsPayload(filepath.Join(dir, current), want, own) {
		// A crash may have come between the swing and the links or the cleaning.
		return false, errors.Join(linkNames(dir, want), removeStale(dir, current, want))
	}
	fresh, err := writeFiles(dir, want, own, now)
	if err != nil {
		return false, err
	}
	if err := replaceLink(fresh, filepath.Join(dir, dataLinkTmp), filepath.Join(dir, dataLink)); err != nil {
		return false, err
	}
	return true, errors.Join(linkNames(dir, want), removeStale(dir, fresh, want))
}

func checkPayloadPath(name string) error {
	if name == "" || filepath.IsAbs(name) || len(name) > 4096 {
		return fmt.Errorf("invalid path: must be relative: %q", name)
	}
	if strings.HasPrefix(name, "..") || slices.Contains(strings.Split(name, "/"), "..") {
		return fmt.Errorf("invalid path: must not contain or start with '..': %q", name)
	}
	return nil
}

// showsPayload compares content, mode and owner of what lies on disk, and that nothing else lies there.
func showsPayload(dir string, want payload, own owner) bool {
	found := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		f, ok := want[filepath.ToSlash(name)]
		if !ok {
			return fs.ErrInvalid
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if info.Mode().Perm() != own.fileMode(f.mode) || !bytes.Equal(data, f.data) || f.uid != nil && uidOf(info) != *f.uid {
			return fs.ErrInvalid
		}
		found++
		return nil
	})
	return err == nil && found == len(clean(want))
}

// clean folds different spellings of one path together.
func clean(want payload) payload {
	out := make(payload, len(want))
	for name, f := range want {
		out[filepath.Clean(name)] = f
	}
	return out
}

func writeFiles(dir string, want payload, own owner, now time.Time) (string, error) {
	tmp, err := os.MkdirTemp(dir, now.UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return "", err
	}
	if err := own.setDir(tmp, 0o755); err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if err := writeFile(tmp, filepath.Clean(name), want[name], own); err != nil {
			return "", errors.Join(err, os.RemoveAll(tmp))
		}
	}
	return filepath.Base(tmp), nil
}

func writeFile(root, name string, f file, own owner) error {
	parent := root
	if dir := filepath.Dir(name); dir != "." {
		for part := range strings.SplitSeq(dir, "/") {
			parent = filepath.Join(parent, part)
			if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			if err := own.setDir(parent, 0o755); err != nil {
				return err
			}
		}
	}
	path := filepath.Join(root, name)
	if err := os.WriteFile(path, f.data, 0o600); err != nil {
		return err
	}
	uid, gid := -1, -1
	if f.uid != nil {
		uid = int(*f.uid)
	}
	if own.fsGroup != nil {
		gid = int(*own.fsGroup)
	}
	if uid >= 0 || gid >= 0 {
		if err := os.Lchown(path, uid, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, own.fileMode(f.mode))
}

func replaceLink(target, tmp, link string) error {
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, link)
}

// linkNames makes the names that containers see. They never change their target, so this needs no swing of its own.
func linkNames(dir string, want payload) error {
	for name := range topNames(want) {
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// removeStale removes names that the payload no longer has and all timestamp directories but the current one.
func removeStale(dir, current string, want payload) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	names := topNames(want)
	var errs []error
	for _, entry := range entries {
		name := entry.Name()
		_, wanted := names[name]
		if wanted || name == dataLink || name == current {
			continue
		}
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

func topNames(want payload) map[string]struct{} {
	names := map[string]struct{}{}
	for name := range want {
		top, _, _ := strings.Cut(filepath.Clean(name), "/")
		names[top] = struct{}{}
	}
	return names
}
