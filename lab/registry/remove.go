package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// ErrNoImage says that the store has no image of that name.
var ErrNoImage = errors.New("no such image")

// Remove takes a name from an image, and the image with the last of its names. Its files stay until Sweep.
func Remove(ctx context.Context, handler http.Handler, reference string) error {
	stored, err := StoredName(reference, selfName)
	if err != nil {
		return err
	}
	through := []remote.Option{remote.WithTransport(inProcess{handler}), remote.WithContext(ctx)}
	image, err := remote.Get(stored, through...)
	var refused *transport.Error
	if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: %s", ErrNoImage, reference)
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", reference, err)
	}
	kept, err := keptBeside(stored, through)
	if err != nil {
		return fmt.Errorf("remove image %s: %w", reference, err)
	}
	manifest := image.Digest.String()
	if tag, ok := stored.(name.Tag); ok && slices.Contains(kept, manifest) {
		return remote.Delete(tag, through...)
	}
	gone := append([]string{manifest}, childrenOf(image)...)
	for _, one := range gone {
		if one != manifest && slices.Contains(kept, one) {
			continue
		}
		err := remote.Delete(stored.Context().Digest(one), through...)
		if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound { // of an index whose other platforms nobody has pulled
			continue
		}
		if err != nil {
			return fmt.Errorf("remove image %s: %w", reference, err)
		}
	}
	return nil
}

// keptBeside returns the manifests that the other tags of a repository need.
func keptBeside(stored name.Reference, through []remote.Option) ([]string, error) {
	tags, err := remote.List(stored.Context(), through...)
	if err != nil {
		return nil, err
	}
	var kept []string
	for _, tag := range tags {
		if tag == stored.Identifier() {
			continue
		}
		image, err := remote.Get(stored.Context().Tag(tag), through...)
		if err != nil {
			return nil, err
		}
		kept = append(append(kept, image.Digest.String()), childrenOf(image)...)
	}
	return kept, nil
}

// childrenOf returns the manifests that an index names; nil for an image.
func childrenOf(image *remote.Descriptor) []string {
	if !image.MediaType.IsIndex() {
		return nil
	}
	var children []string
	if index, err := image.ImageIndex(); err == nil {
		if manifest, err := index.IndexManifest(); err == nil {
			for _, child := range manifest.Manifests {
				children = append(children, child.Digest.String())
			}
		}
	}
	return children
}

// Sweep removes from the store below dir what no image needs. An image that is being stored meanwhile may lose layers: whoever stores it is told
// so when its manifest is refused, and begins again.
func Sweep(ctx context.Context, dir string) error {
	driver := filesystem.New(filesystem.DriverParameters{RootDirectory: dir, MaxThreads: maxThreads})
	store, err := storage.NewRegistry(ctx, driver)
	if err != nil {
		return fmt.Errorf("open image store: %w", err)
	}
	if err := storage.MarkAndSweep(ctx, driver, store, storage.GCOpts{Quiet: true}); err != nil {
		return fmt.Errorf("sweep image store: %w", err)
	}
	return nil
}
