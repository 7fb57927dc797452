package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// RotateConfig says when and how logs are rotated.
type RotateConfig struct {
	Runtime  runtimeapi.RuntimeServiceClient
	MaxSize  int64         // containerLogMaxSize, default 10 MiB
	MaxFiles int           // containerLogMaxFiles, default 5, the current one included
	Interval time.Duration // containerLogMonitorInterval, default 10 s
	Clock    clock.WithTicker
}

// Rotator keeps the logs of running containers within their size. Sizes are looked up in an interval: to be told of every write
// of every container would cost more than the look.
type Rotator struct {
	cfg   RotateConfig
	paths map[string]string // container id → log path, which never changes
}

// NewRotator fills in the defaults of upstream's kubelet.
func NewRotator(cfg RotateConfig) *Rotator {
	if cfg.MaxSize == 0 {
		cfg.MaxSize = 10 << 20
	}
	if cfg.MaxFiles == 0 {
		cfg.MaxFiles = 5
	}
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Rotator{cfg: cfg, paths: map[string]string{}}
}

// Run rotates until ctx ends.
func (r *Rotator) Run(ctx context.Context) {
	if r.cfg.MaxSize < 0 {
		return
	}
	ticker := r.cfg.Clock.NewTicker(r.cfg.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			if err := r.RotateAll(ctx); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Container logs could not be rotated")
			}
		}
	}
}

// RotateAll looks at every running container once.
func (r *Rotator) RotateAll(ctx context.Context) error {
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	list, err := r.cfg.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: running})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	known := r.paths
	r.paths = make(map[string]string, len(list.Containers))
	var errs []error
	for _, c := range list.Containers {
		path, ok := known[c.Id]
		if !ok {
			status, err := r.cfg.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
			if err != nil { // it ended meanwhile, or will be asked again
				continue
			}
			path = status.GetStatus().GetLogPath()
		}
		r.paths[c.Id] = path
		if err := r.rotate(ctx, c.Id, path); err != nil {
			errs = append(errs, fmt.Errorf("rotate %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Rotator) rotate(ctx context.Context, id, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		// A crash came between the rename and the reopening: the runtime still writes to the renamed file.
		return r.reopen(ctx, id)
	}
	if err != nil || path == "" || info.Size() < r.cfg.MaxSize {
		return err
	}
	if err := r.cleanOld(path); err != nil {
		return err
	}
	rotated := path + "." + r.cfg.Clock.Now().UTC().Format("20060102-150405")
	if err := os.Rename(path, rotated); err != nil {
		return err
	}
	if err := r.reopen(ctx, id); err != nil {
		return errors.Join(err, os.Rename(rotated, path))
	}
	return nil
}

func (r *Rotator) reopen(ctx context.Context, id string) error {
	if _, err := r.cfg.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("reopen log: %w", err)
	}
	return nil
}

// cleanOld makes room for one more rotated file and compresses those there are. The newest rotated file is compressed one round
// late, as the runtime may have written to it until it reopened.
func (r *Rotator) cleanOld(path string) error {
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old) // the names sort by time
	for _, f := range old {
		if strings.HasSuffix(f, tmpSuffix) {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	old = slices.DeleteFunc(old, func(f string) bool { return strings.HasSuffix(f, tmpSuffix) })
	for len(old) > 0 && len(old) > r.cfg.MaxFiles-2 {
		if err := os.Remove(old[0]); err != nil {
			return err
		}
		old = old[1:]
	}
	for _, f := range old {
		if !strings.HasSuffix(f, ".gz") {
			if err := compress(f); err != nil {
				return fmt.Errorf("compress %s: %w", f, err)
			}
		}
	}
	return nil
}

const tmpSuffix = ".tmp"

// compress replaces a file by its compressed form, through a temporary name that a crash leaves recognisable.
func compress(path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	tmp := path + tmpSuffix
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	w := gzip.NewWriter(out)
	_, err = io.Copy(w, in)
	if err := errors.Join(err, w.Close(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
