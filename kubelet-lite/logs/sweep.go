package logs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Sweep removes the log folders of pods that are not among the known ones, and links to logs that are gone: what an agent leaves that is
// killed at the very end of a pod.
func Sweep(root, links string, known func(types.UID) bool) error {
	folders, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, f := range folders { // namespace_name_UID
		parts := strings.Split(f.Name(), "_")
		if len(parts) == 3 && !known(types.UID(parts[2])) {
			errs = append(errs, os.RemoveAll(filepath.Join(root, f.Name())))
		}
	}
	return errors.Join(append(errs, Unlink(links, "*", root))...)
}

// Unlink removes the links of a folder whose names match the pattern and that lead to something below a folder which is gone.
func Unlink(links, pattern, below string) error {
	entries, err := os.ReadDir(links)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, l := range entries {
		path := filepath.Join(links, l.Name())
		if matched, err := filepath.Match(pattern, l.Name()); !matched {
			errs = append(errs, err)
			continue
		}
		if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, below+"/") {
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, os.Remove(path))
			}
		}
	}
	return errors.Join(errs...)
}
