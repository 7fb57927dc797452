package pretend

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Images is an image store that has whatever it is asked to pull, of a size that depends on the name only. A registry in the domain
// .invalid, which never exists (RFC 2606), cannot be reached.
type Images struct {
	mu     sync.Mutex
	byName map[string]*runtimeapi.Image
}

var _ criapi.ImageManagerService = (*Images)(nil)

// NewImages returns an empty store.
func NewImages() *Images { return &Images{byName: map[string]*runtimeapi.Image{}} }

// Sizes of images in bytes: as real ones have them.
const (
	minImage = 5 << 20
	maxImage = 500 << 20
)

func imageOf(name string) (*runtimeapi.Image, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "parse image name %q: %v", name, err)
	}
	host, _, _ := strings.Cut(reference.Domain(named), ":")
	if strings.HasSuffix(host, ".invalid") {
		return nil, status.Errorf(codes.Unknown, "failed to do request: dial tcp: lookup %s: no such host", host)
	}
	sum := sha256.Sum256([]byte(named.String()))
	digest := "sha256:" + hex.EncodeToString(sum[:])
	image := &runtimeapi.Image{
		Id: digest, RepoDigests: []string{reference.TrimNamed(named).String() + "@" + digest}, Spec: &runtimeapi.ImageSpec{Image: digest},
		Size: minImage + binary.BigEndian.Uint64(sum[:])%(maxImage-minImage),
	}
	if _, tagged := named.(reference.Tagged); tagged {
		image.RepoTags = []string{named.String()}
	}
	return image, nil
}

// find knows an image by name or by ID.
func (i *Images) find(name string) *runtimeapi.Image {
	if image := i.byName[name]; image != nil {
		return image
	}
	for _, image := range i.byName {
		if image.Id == name {
			return image
		}
	}
	return nil
}

// ListImages lists what was pulled.
func (i *Images) ListImages(_ context.Context, f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if name := f.GetImage().GetImage(); name != "" {
		if image := i.find(name); image != nil {
			return []*runtimeapi.Image{image}, nil
		}
		return nil, nil
	}
	var out []*runtimeapi.Image
	for _, image := range i.byName {
		out = append(out, image)
	}
	return out, nil
}

// ImageStatus returns an image, or none if it was not pulled.
func (i *Images) ImageStatus(_ context.Context, spec *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return &runtimeapi.ImageStatusResponse{Image: i.find(spec.Image)}, nil
}

// PullImage has the image at once.
func (i *Images) PullImage(_ context.Context, spec *runtimeapi.ImageSpec, _ *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	image, err := imageOf(spec.Image)
	if err != nil {
		return "", err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.byName[spec.Image] = image
	return image.Id, nil
}

// RemoveImage forgets an image. To remove what is gone is no error.
func (i *Images) RemoveImage(_ context.Context, spec *runtimeapi.ImageSpec) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for name, image := range i.byName {
		if name == spec.Image || image.Id == spec.Image {
			delete(i.byName, name)
		}
	}
	return nil
}

// ImageFsInfo has no file system to speak of.
func (i *Images) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}

// Close closes nothing.
func (i *Images) Close(context.Context) error { return nil }
