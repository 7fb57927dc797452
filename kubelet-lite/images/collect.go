package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	criapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// collectPeriod is how often the image disk is looked at.
const collectPeriod = 5 * time.Minute

// CollectorConfig says when images go.
type CollectorConfig struct {
	Images  criapi.ImageManagerService
	Runtime criapi.RuntimeService
	// Disk returns the size and the free bytes of the disk that holds images.
	Disk      func(context.Context) (capacity, available uint64, err error)
	High, Low int           // percent of the disk in use
	MinAge    time.Duration // since an image was first seen
	Clock     clock.WithTicker
}

// Collector removes images that no container uses, the longest unused first, when the disk fills up.
type Collector struct {
	cfg  CollectorConfig
	seen map[string]*imageRecord // by image ID; whoever has the turn uses it
	turn chan struct{}
}

type imageRecord struct{ first, lastUsed time.Time }

// NewCollector returns a collector.
func NewCollector(cfg CollectorConfig) *Collector {
	return &Collector{cfg: cfg, seen: map[string]*imageRecord{}, turn: make(chan struct{}, 1)}
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	ticker := c.cfg.Clock.NewTicker(collectPeriod)
	defer ticker.Stop()
	for {
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Info("Images not collected", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

func (c *Collector) round(ctx context.Context) error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	unused, err := c.unused(ctx)
	if err != nil {
		return err
	}
	capacity, available, err := c.cfg.Disk(ctx)
	if err != nil || capacity == 0 {
		return err
	}
	used := capacity - available
	if used*100 < capacity*uint64(c.cfg.High) {
		return nil
	}
	toFree := int64(used) - int64(capacity)*int64(c.cfg.Low)/100
	freed, err := c.remove(ctx, unused, toFree)
	if err == nil && freed < toFree {
		err = fmt.Errorf("wanted to free %d bytes of images, could free %d", toFree, freed)
	}
	return err
}

// Free removes every image that no container uses.
func (c *Collector) Free(ctx context.Context) error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	unused, err := c.unused(ctx)
	if err != nil {
		return err
	}
	_, err = c.remove(ctx, unused, -1)
	return err
}

// unused lists the images that may go, the longest unused first.
func (c *Collector) unused(ctx context.Context) ([]*runtimeapi.Image, error) {
	list, err := c.cfg.Images.ListImages(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	containers, err := c.cfg.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	for _, k := range containers {
		used[k.ImageRef], used[k.ImageId], used[k.GetImage().GetImage()] = true, true, true
	}
	now, present := c.cfg.Clock.Now(), map[string]bool{}
	var out []*runtimeapi.Image
	for _, i := range list {
		present[i.Id] = true
		record := c.seen[i.Id]
		if record == nil {
			record = &imageRecord{first: now}
			c.seen[i.Id] = record
		}
		if used[i.Id] || slices.ContainsFunc(slices.Concat(i.RepoDigests, i.RepoTags), func(name string) bool { return used[name] }) {
			record.lastUsed = now
			continue
		}
		if !i.Pinned {
			out = append(out, i)
		}
	}
	for id := range c.seen {
		if !present[id] {
			delete(c.seen, id)
		}
	}
	slices.SortStableFunc(out, func(a, b *runtimeapi.Image) int {
		if d := c.seen[a.Id].lastUsed.Compare(c.seen[b.Id].lastUsed); d != 0 {
			return d
		}
		return c.seen[a.Id].first.Compare(c.seen[b.Id].first)
	})
	return out, nil
}

// remove frees at least so many bytes; fewer than zero means all.
func (c *Collector) remove(ctx context.Context, list []*runtimeapi.Image, bytes int64) (freed int64, err error) {
	var errs []error
	for _, i := range list {
		if bytes >= 0 && freed >= bytes {
			break
		}
		if bytes >= 0 && c.cfg.Clock.Since(c.seen[i.Id].first) < c.cfg.MinAge {
			continue
		}
		if err := c.cfg.Images.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: i.Id}); err != nil {
			errs = append(errs, err)
			continue
		}
		klog.FromContext(ctx).Info("Image removed", "image", i.RepoTags, "bytes", i.Size)
		freed += int64(i.Size)
	}
	return freed, errors.Join(errs...)
}
