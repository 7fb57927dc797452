package registry

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestPushedImageIsPulledAsMirror stores an image in process and pulls it as a node does: from a mirror, with ?ns=.
func TestPushedImageIsPulledAsMirror(t *testing.T) {
	handler := Handler(t.Context(), t.TempDir(), "10.0.0.1:5000")
	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, reference := range []string{"registry.k8s.io/pause:3", "nginx", "10.0.0.2:5000/mine:1"} {
		if err := Push(t.Context(), handler, reference, image); err != nil {
			t.Fatalf("Push(%s): %v", reference, err)
		}
	}
	got, err := List(t.Context(), handler)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"10.0.0.2:5000/mine:1", "nginx:latest", "registry.k8s.io/pause:3"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List: -want +got:\n%s", diff)
	}

	request := httptest.NewRequest("GET", "/v2/pause/manifests/3?ns=registry.k8s.io", nil)
	request.Header.Set("Accept", "*/*")
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	if recorder.Code != 200 {
		t.Errorf("manifest through the mirror: status %d: %s", recorder.Code, recorder.Body)
	}
}

// TestRemove removes names of images that share layers and manifests, and sweeps: what is left can be pulled, and nothing else is there.
func TestRemove(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	handler := Handler(ctx, dir, "10.0.0.1:5000")
	one, two := randomImage(t), randomImage(t)
	for reference, image := range map[string]v1.Image{"a/b:1": one, "a/b:same": one, "quay.io/c:1": one, "a/b:2": two} {
		must(t, Push(ctx, handler, reference, image))
	}
	shared, other := randomImage(t), randomImage(t)
	writeIndex(t, handler, "a/multi:1", shared, other)
	writeIndex(t, handler, "a/multi:2", shared)

	for _, removed := range []string{"a/b:1", "a/b:2", "a/multi:1"} {
		must(t, Remove(ctx, handler, removed))
		if err := Remove(ctx, handler, removed); !errors.Is(err, ErrNoImage) {
			t.Errorf("removing %s again: %v", removed, err)
		}
	}
	must(t, Sweep(ctx, dir))
	got, err := List(ctx, handler)
	must(t, err)
	if diff := cmp.Diff([]string{"docker.io/a/b:same", "docker.io/a/multi:2", "quay.io/c:1"}, got); diff != "" {
		t.Errorf("List: -want +got:\n%s", diff)
	}
	pulls(t, handler, "a/b:same")
	pulls(t, handler, "quay.io/c:1")
	pulls(t, handler, "a/multi:2")
	if want := blobsOf(t, one) + blobsOf(t, shared) + 1; files(t, dir) != want { // 1: the index itself
		t.Errorf("%d blobs are left, want %d", files(t, dir), want)
	}

	must(t, Remove(ctx, handler, "a/b:same"))
	must(t, Sweep(ctx, dir))
	pulls(t, handler, "quay.io/c:1")
	must(t, Remove(ctx, handler, "quay.io/c:1"))
	must(t, Remove(ctx, handler, "a/multi:2"))
	must(t, Sweep(ctx, dir))
	if left := files(t, dir); left != 0 {
		t.Errorf("%d blobs are left of no image", left)
	}
	must(t, Push(ctx, handler, "a/b:1", one)) // the same handler stores what was swept
	pulls(t, handler, "a/b:1")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeIndex(t *testing.T, handler http.Handler, reference string, images ...v1.Image) {
	t.Helper()
	var index v1.ImageIndex = empty.Index
	for _, image := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image})
	}
	stored, err := StoredName(reference, selfName)
	must(t, err)
	must(t, remote.WriteIndex(stored, index, remote.WithTransport(inProcess{handler})))
}

// pulls reads all that an image, or the images of an index, consist of.
func pulls(t *testing.T, handler http.Handler, reference string) {
	t.Helper()
	stored, err := StoredName(reference, selfName)
	must(t, err)
	got, err := remote.Get(stored, remote.WithTransport(inProcess{handler}))
	must(t, err)
	if !got.MediaType.IsIndex() {
		image, err := got.Image()
		must(t, err)
		must(t, validate.Image(image))
		return
	}
	index, err := got.ImageIndex()
	must(t, err)
	must(t, validate.Index(index))
}

// blobsOf counts an image's layers, configuration and manifest.
func blobsOf(t *testing.T, image v1.Image) int {
	t.Helper()
	layers, err := image.Layers()
	must(t, err)
	return len(layers) + 2
}

func files(t *testing.T, dir string) int {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "docker/registry/v2/blobs/sha256/*/*/data"))
	must(t, err)
	return len(all)
}

func TestStoredName(t *testing.T) {
	cases := map[string]struct{ reference, want string }{
		"Docker":  {"nginx", "localhost:1/docker.io/library/nginx:latest"},
		"Other":   {"registry.k8s.io/pause:3.10", "localhost:1/registry.k8s.io/pause:3.10"},
		"Digest":  {"quay.io/a/b@sha256:" + sha, "localhost:1/quay.io/a/b@sha256:" + sha},
		"Invalid": {"UPPER//case", ""},
	}
	for label, tc := range cases {
		t.Run(label, func(t *testing.T) {
			stored, err := StoredName(tc.reference, "localhost:1")
			got := ""
			if err == nil {
				got = stored.Name()
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

const sha = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
