package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
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
	if absent(err) {
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
	gone, err := manifestsOf(image)
	if err != nil {
		return fmt.Errorf("remove image %s: %w", reference, err)
	}
	for _, one := range gone {
		if one != manifest && slices.Contains(kept, one) {
			continue
		}
		err := remote.Delete(stored.Context().Digest(one), through...)
		if absent(err) { // of an index whose other platforms nobody has pulled
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
		needed, err := manifestsOf(image)
		if err != nil {
			return nil, err
		}
		kept = append(kept, needed...)
	}
	return kept, nil
}

// manifestsOf returns the manifest of an image, of an index also those that it names.
func manifestsOf(image *remote.Descriptor) ([]string, error) {
	manifests := []string{image.Digest.String()}
	if !image.MediaType.IsIndex() {
		return manifests, nil
	}
	index, err := image.ImageIndex()
	if err != nil {
		return nil, err
	}
	named, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, child := range named.Manifests {
		manifests = append(manifests, child.Digest.String())
	}
	return manifests, nil
}

// Sweep removes from the store below dir what no image needs. An image that is being stored meanwhile may lose layers: whoever stores it is told
// so when its manifest is refused, and begins again.
func Sweep(ctx context.Context, dir string) error {
	driver, store, err := openStore(ctx, dir)
	if err != nil {
		return err
	}
	if err := storage.MarkAndSweep(ctx, driver, store, storage.GCOpts{Quiet: true}); err != nil {
		return fmt.Errorf("sweep image store: %w", err)
	}
	return nil
}
