package registry

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// RefAnnotation names the reference of an image in an OCI layout.
const RefAnnotation = "org.opencontainers.image.ref.name"

// inProcess is a transport that hands requests to a handler: pushing into our own store takes no socket.
type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(request *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	arriving := request.Clone(request.Context())
	if arriving.Body == nil { // a server's request always has one
		arriving.Body = http.NoBody
	}
	t.handler.ServeHTTP(recorder, arriving)
	response := recorder.Result()
	response.Request = request
	return response, nil
}

// selfName is the name under which images are pushed in process.
const selfName = "localhost:1"

// Import copies every image of the OCI layout at path into the store behind handler; what is there already is not copied.
func Import(ctx context.Context, handler http.Handler, path string) error {
	images, err := layout.FromPath(path)
	if err != nil {
		return fmt.Errorf("open image layout: %w", err)
	}
	index, err := images.ImageIndex()
	if err != nil {
		return fmt.Errorf("read image layout: %w", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("read image layout: %w", err)
	}
	for _, entry := range manifest.Manifests {
		image, err := index.Image(entry.Digest)
		if err != nil {
			return fmt.Errorf("read image %s: %w", entry.Digest, err)
		}
		if err := Push(ctx, handler, entry.Annotations[RefAnnotation], image); err != nil {
			return err
		}
	}
	return nil
}

// Push stores an image under its full reference, for example registry.k8s.io/pause:3.10.2.
func Push(ctx context.Context, handler http.Handler, reference string, image v1.Image) error {
	stored, err := StoredName(reference, selfName)
	if err != nil {
		return err
	}
	transport := remote.WithTransport(inProcess{handler})
	wanted, err := image.Digest()
	if err != nil {
		return fmt.Errorf("digest of %s: %w", reference, err)
	}
	if present, err := remote.Head(stored, transport, remote.WithContext(ctx)); err == nil && present.Digest == wanted {
		return nil
	}
	if err := remote.Write(stored, image, transport, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("store image %s: %w", reference, err)
	}
	return nil
}

// StoredName is where the registry at host keeps the image of that reference.
func StoredName(reference, host string) (name.Reference, error) {
	origin, err := name.ParseReference(reference)
	if err != nil {
		return nil, fmt.Errorf("image name %q: %w", reference, err)
	}
	domain := origin.Context().RegistryStr()
	if domain == name.DefaultRegistry {
		domain = "docker.io"
	}
	repository, err := name.NewRepository(host + "/" + folderOf(domain) + "/" + origin.Context().RepositoryStr())
	if err != nil {
		return nil, fmt.Errorf("image name %q: %w", reference, err)
	}
	if tag, ok := origin.(name.Tag); ok {
		return repository.Tag(tag.TagStr()), nil
	}
	return repository.Digest(origin.Identifier()), nil
}
