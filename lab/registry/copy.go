package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/distribution/distribution/v3"
	_ "github.com/distribution/distribution/v3/manifest/manifestlist" // the media types that storeManifest knows
	_ "github.com/distribution/distribution/v3/manifest/ocischema"
	_ "github.com/distribution/distribution/v3/manifest/schema2"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"
)

// copying is an image on its way into the store.
type copying struct {
	target
	root *remote.Descriptor
	// parts are the manifests of an index that this machine needs.
	parts []*remote.Descriptor
}

// begin copies the image of a manifest in the background, unless that is under way.
func (u *upstreams) begin(t target, root *remote.Descriptor) {
	key := t.String() + "@" + root.Digest.String()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.copies[key] != nil {
		return
	}
	c := &copying{target: t, root: root}
	u.copies[key] = c
	go func() {
		started, log := time.Now(), klog.FromContext(u.ctx)
		if err := u.copy(c); err != nil {
			log.Info("Image not copied", "image", t.String(), "err", err)
		} else {
			log.Info("Image copied", "image", t.String(), "digest", root.Digest, "seconds", time.Since(started).Seconds())
		}
		u.mu.Lock()
		delete(u.copies, key)
		u.mu.Unlock()
	}()
}

// copying returns the manifest if it is one of an image on its way.
func (u *upstreams) copying(t target) *remote.Descriptor {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.copies {
		if c.local.Name() != t.local.Name() {
			continue
		}
		if t.tag != "" && c.tag == t.tag {
			return c.root
		}
		for _, m := range slices.Concat(c.parts, []*remote.Descriptor{c.root}) {
			if m.Digest.String() == t.digest.String() {
				return m
			}
		}
	}
	return nil
}

// copy stores the blobs of an image, its manifests and then its tag: what is in the store is whole, whenever this ends.
func (u *upstreams) copy(c *copying) error {
	parts := []*remote.Descriptor{c.root}
	if c.root.MediaType.IsIndex() {
		var err error
		if parts, err = u.partsOf(c); err != nil {
			return err
		}
	}
	for _, part := range parts {
		if err := u.copyBlobs(c.target, part); err != nil {
			return err
		}
		if err := u.storeManifest(c.target, part); err != nil {
			return err
		}
	}
	if c.root.MediaType.IsIndex() {
		if err := u.storeManifest(c.target, c.root); err != nil {
			return err
		}
	}
	if c.tag == "" {
		return nil
	}
	root := digest.Digest(c.root.Digest.String())
	if err := u.setMark(c.local, root); err != nil {
		return fmt.Errorf("mark image as fetched: %w", err)
	}
	repository, err := u.store.Repository(u.ctx, c.local)
	if err != nil {
		return fmt.Errorf("open repository: %w", err)
	}
	if err := repository.Tags(u.ctx).Tag(u.ctx, c.tag, imagespec.Descriptor{Digest: root}); err != nil {
		return fmt.Errorf("tag image: %w", err)
	}
	return nil
}

// partsOf fetches the manifests of an index that are for this machine.
func (u *upstreams) partsOf(c *copying) ([]*remote.Descriptor, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(c.root.Manifest))
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	for _, entry := range index.Manifests {
		if p := entry.Platform; p != nil && (p.OS != "linux" || p.Architecture != runtime.GOARCH) {
			continue
		}
		ctx, cancel := context.WithTimeout(u.ctx, lookTimeout)
		part, err := u.puller.Get(ctx, c.remote.Digest(entry.Digest.String()))
		cancel()
		if err != nil {
			return nil, fmt.Errorf("fetch manifest: %w", err)
		}
		u.mu.Lock()
		c.parts = append(c.parts, part)
		u.mu.Unlock()
	}
	return c.parts, nil
}

func (u *upstreams) copyBlobs(t target, image *remote.Descriptor) error {
	manifest, err := v1.ParseManifest(bytes.NewReader(image.Manifest))
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	var all []*download
	var failed error
	for _, blob := range append(manifest.Layers, manifest.Config) {
		if !blob.MediaType.IsDistributable() {
			continue
		}
		d, err := u.download(t, digest.Digest(blob.Digest.String()), blob.Size)
		failed = errors.Join(failed, err)
		if d != nil {
			all = append(all, d)
		}
	}
	for _, d := range all {
		if err := d.wait(u.ctx); err != nil {
			failed = errors.Join(failed, fmt.Errorf("fetch blob %s: %w", d.digest, err))
		}
		d.users.Done()
	}
	return failed
}

func (u *upstreams) storeManifest(t target, image *remote.Descriptor) error {
	manifest, _, err := distribution.UnmarshalManifest(string(image.MediaType), image.Manifest)
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	repository, err := u.store.Repository(u.ctx, t.local)
	if err != nil {
		return fmt.Errorf("open repository: %w", err)
	}
	manifests, err := repository.Manifests(u.ctx)
	if err != nil {
		return fmt.Errorf("open repository: %w", err)
	}
	if _, err := manifests.Put(u.ctx, manifest); err != nil {
		return fmt.Errorf("store manifest: %w", err)
	}
	return nil
}
