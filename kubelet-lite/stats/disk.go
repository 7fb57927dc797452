package stats

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"
)

// walkInterval is for how long the size of a directory is believed. Upstream's kubelet walks as often.
const walkInterval = time.Minute

// fileSystem describes the file system that holds path.
func fileSystem(path string, now time.Time) (*statsapi.FsStats, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	unit := uint64(s.Bsize)
	available, capacity, used := s.Bavail*unit, s.Blocks*unit, (s.Blocks-s.Bfree)*unit
	inodes, free := s.Files, s.Ffree
	inodesUsed := inodes - free
	return &statsapi.FsStats{
		Time: metav1.NewTime(now), AvailableBytes: &available, CapacityBytes: &capacity, UsedBytes: &used,
		Inodes: &inodes, InodesFree: &free, InodesUsed: &inodesUsed,
	}, nil
}

// diskUsage remembers the sizes of directories.
type diskUsage struct {
	clock clock.PassiveClock

	mu   sync.Mutex
	dirs map[string]usage
}

type usage struct {
	at            time.Time
	bytes, inodes uint64
}

func newDiskUsage(clock clock.PassiveClock) *diskUsage {
	return &diskUsage{clock: clock, dirs: map[string]usage{}}
}

func (d *diskUsage) of(dir string) (usage, error) {
	now := d.clock.Now()
	d.mu.Lock()
	known, ok := d.dirs[dir]
	for path, u := range d.dirs {
		if now.Sub(u.at) > 10*walkInterval {
			delete(d.dirs, path)
		}
	}
	d.mu.Unlock()
	if ok && now.Sub(known.at) < walkInterval {
		return known, nil
	}
	fresh, err := walk(dir)
	if err != nil {
		return usage{}, err
	}
	fresh.at = now
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirs[dir] = fresh
	return fresh, nil
}

// walk adds up the blocks below dir, hard links once, without leaving its file system.
func walk(dir string) (usage, error) {
	var total usage
	var root syscall.Stat_t
	if err := syscall.Lstat(dir, &root); err != nil {
		return total, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	linked := map[uint64]struct{}{}
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // files come and go while we walk
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // removed while we walk
		}
		stat := info.Sys().(*syscall.Stat_t)
		if stat.Dev != root.Dev {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if stat.Nlink > 1 && !entry.IsDir() {
			if _, seen := linked[stat.Ino]; seen {
				return nil
			}
			linked[stat.Ino] = struct{}{}
		}
		total.bytes += uint64(stat.Blocks) * 512
		total.inodes++
		return nil
	})
	return total, err
}

// directory is the file system that dir is on, with what dir uses of it; nil if dir is not there.
func (p *Provider) directory(dir string) *statsapi.FsStats {
	used, err := p.disk.of(dir)
	if err != nil {
		return nil
	}
	stats, err := fileSystem(dir, used.at)
	if err != nil {
		return nil
	}
	stats.UsedBytes, stats.InodesUsed = &used.bytes, &used.inodes
	return stats
}

// claimNames reads which volume of the pod's spec each mounted CSI volume is, from the file beside it.
func claimNames(mounts []string) map[string]string {
	names := map[string]string{}
	for _, mount := range mounts {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(mount), "vol_data.json"))
		if err != nil {
			continue
		}
		var record struct {
			Name string `json:"podVolumeName"`
		}
		if json.Unmarshal(data, &record) == nil && record.Name != "" {
			names[record.Name] = mount
		}
	}
	return names
}

// errShort marks a kernel file that does not hold what it should.
var errShort = fmt.Errorf("unexpected content")
