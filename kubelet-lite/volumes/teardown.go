package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"
)

// TearDown unmounts and removes all volumes and the directory of a pod whose containers have ended. It works from the disk, so
// it needs no earlier SetUp, and it is idempotent.
func (m *Manager) TearDown(ctx context.Context, uid types.UID) error {
	if uid == "" || filepath.Base(string(uid)) != string(uid) {
		return fmt.Errorf("invalid pod UID %q", uid)
	}
	if s, _ := m.known(uid); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gone = true
	}
	if err := m.tearDownDir(ctx, m.podDir(uid)); err != nil {
		return err
	}
	m.cfg.Objects.Unregister(uid)
	m.tokens.forget(uid)
	m.certs.forget(uid)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pods, uid)
	return nil
}

func (m *Manager) tearDownDir(ctx context.Context, dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := unmountAll(filepath.Join(dir, "volume-subpaths")); err != nil {
		return err
	}
	// Drivers come first: they must be told, and they unmount what they have mounted.
	if err := m.unpublishAll(ctx, dir); err != nil {
		return err
	}
	local, err := os.ReadDir(filepath.Join(dir, "volumes/kubernetes.io~local-volume"))
	if ignoreNotExist(err) != nil {
		return err
	}
	if err := unmountAll(dir); err != nil {
		return err
	}
	if err := removeTree(dir); err != nil {
		return err
	}
	for _, entry := range local {
		if err := m.releaseDevice(entry.Name()); err != nil {
			return err
		}
	}
	return nil
}

// releaseDevice unmounts a local device that no pod uses any more; most local volumes are directories and have none.
func (m *Manager) releaseDevice(volume string) error {
	defer m.devices.lock(volume)()
	users, err := filepath.Glob(filepath.Join(m.cfg.RootDir, "pods/*/volumes/kubernetes.io~local-volume", volume))
	if err != nil || len(users) > 0 {
		return err
	}
	dir := filepath.Join(m.cfg.RootDir, "plugins/kubernetes.io/local-volume/mounts", volume)
	if err := unmountAll(dir); err != nil {
		return err
	}
	return removeTree(dir)
}

// Orphans tears down what pods that are not known have left on disk, for example before a crash. It asks after it has looked, so that a pod
// that comes meanwhile is known.
func (m *Manager) Orphans(ctx context.Context, known func(types.UID) bool) error {
	entries, err := os.ReadDir(filepath.Join(m.cfg.RootDir, "pods"))
	if err != nil {
		return ignoreNotExist(err)
	}
	var errs []error
	for _, entry := range entries {
		uid := types.UID(entry.Name())
		if known(uid) {
			continue
		}
		if err := m.TearDown(ctx, uid); err != nil {
			errs = append(errs, fmt.Errorf("tear down orphaned pod %s: %w", uid, err))
		}
	}
	return errors.Join(errs...)
}
