package registry

import (
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/random"
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
