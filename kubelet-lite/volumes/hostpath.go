package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"
)

func (m *Manager) setUpHostPath(_ context.Context, _ *corev1.Pod, v *corev1.Volume) (*mounted, error) {
	return checkHostPath(v.HostPath)
}

// checkHostPath holds a path against its declared type and creates what the type says may be created. Without a type nothing
// is checked: the runtime makes a directory where there is none.
func checkHostPath(source *corev1.HostPathVolumeSource) (*mounted, error) {
	done := &mounted{path: source.Path}
	if source.Type == nil || *source.Type == corev1.HostPathUnset {
		return done, nil
	}
	info, err := os.Stat(source.Path)
	if errors.Is(err, fs.ErrNotExist) {
		switch *source.Type {
		case corev1.HostPathDirectoryOrCreate:
			return done, os.MkdirAll(source.Path, 0o755)
		case corev1.HostPathFileOrCreate:
			f, err := os.OpenFile(source.Path, os.O_CREATE|os.O_RDONLY, 0o644)
			if err != nil {
				return nil, err
			}
			return done, f.Close()
		default:
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	noun, ok := hostPathNoun(*source.Type, info)
	if !ok {
		return nil, fmt.Errorf("hostPath type check failed: %s is not %s", source.Path, noun)
	}
	return done, nil
}

// hostPathNoun names what a type asks for and whether info is that; info is nil if nothing is there.
func hostPathNoun(want corev1.HostPathType, info fs.FileInfo) (string, bool) {
	is := func(match func(fs.FileMode) bool) bool { return info != nil && match(info.Mode()) }
	switch want {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return "a directory", is(fs.FileMode.IsDir)
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return "a file", is(fs.FileMode.IsRegular)
	case corev1.HostPathSocket:
		return "a socket file", is(func(m fs.FileMode) bool { return m&fs.ModeSocket != 0 })
	case corev1.HostPathCharDev:
		return "a character device", is(func(m fs.FileMode) bool { return m&fs.ModeCharDevice != 0 })
	case corev1.HostPathBlockDev:
		return "a block device", is(func(m fs.FileMode) bool { return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 })
	case corev1.HostPathUnset:
	}
	return "of a known hostPath type " + string(want), false
}
