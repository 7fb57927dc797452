package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Load stores every image of an archive as docker save writes it, or of an OCI layout folder, and returns their references.
func Load(ctx context.Context, handler http.Handler, path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	if info.IsDir() {
		return loadLayout(ctx, handler, path)
	}
	manifest, err := tarball.LoadManifest(tarball.Opener(opener(path)))
	if err != nil {
		return nil, fmt.Errorf("load images of %s: %w", path, err)
	}
	var loaded []string
	for _, entry := range manifest {
		for _, reference := range entry.RepoTags {
			tag, err := name.NewTag(reference)
			if err != nil {
				return loaded, fmt.Errorf("load images of %s: %w", path, err)
			}
			image, err := tarball.ImageFromPath(path, &tag)
			if err != nil {
				return loaded, fmt.Errorf("load %s of %s: %w", reference, path, err)
			}
			if err := Push(ctx, handler, reference, image); err != nil {
				return loaded, err
			}
			loaded = append(loaded, reference)
		}
	}
	if len(loaded) == 0 {
		return nil, fmt.Errorf("load images of %s: no image in it has a name", path)
	}
	return loaded, nil
}

func loadLayout(ctx context.Context, handler http.Handler, path string) ([]string, error) {
	index, err := layout.ImageIndexFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("load images of %s: %w", path, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("load images of %s: %w", path, err)
	}
	var names []string
	for _, entry := range manifest.Manifests {
		names = append(names, entry.Annotations[RefAnnotation])
	}
	return names, Import(ctx, handler, path)
}

// List returns the references of all stored images, sorted.
func List(ctx context.Context, handler http.Handler) ([]string, error) {
	store, err := name.NewRegistry(selfName)
	if err != nil {
		return nil, err
	}
	transport := remote.WithTransport(inProcess{handler})
	repositories, err := remote.Catalog(ctx, store, transport)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var all []string
	for _, repository := range repositories {
		tags, err := remote.List(store.Repo(repository), transport, remote.WithContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("list tags of %s: %w", repository, err)
		}
		for _, tag := range tags {
			all = append(all, strings.Replace(strings.TrimPrefix(repository, "docker.io/library/"), "__", ":", 1)+":"+tag)
		}
	}
	slices.Sort(all)
	return all, nil
}

func opener(path string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return os.Open(path) }
}
