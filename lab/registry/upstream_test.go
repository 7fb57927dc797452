package registry

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	memory "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"k8s.io/apimachinery/pkg/util/wait"
)

// internet is a public registry: it wants a token, which it gives to anybody.
type internet struct {
	*httptest.Server
	mu    sync.Mutex
	asked map[string]int                                    // by method and path
	fault func(w http.ResponseWriter, r *http.Request) bool // answers in the registry's place if it returns true
}

func newInternet(t *testing.T) *internet {
	i := &internet{asked: map[string]int{}}
	images := memory.New(memory.Logger(log.New(io.Discard, "", 0)))
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			io.WriteString(w, `{"token": "anybody"}`)
			return
		}
		if r.Header.Get("Authorization") != "Bearer anybody" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+i.URL+`/token",service="internet"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		i.mu.Lock()
		i.asked[r.Method+" "+r.URL.Path]++
		fault := i.fault
		i.mu.Unlock()
		if fault == nil || !fault(w, r) {
			images.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *internet) host() string { return i.Listener.Addr().String() }

func (i *internet) setFault(fault func(w http.ResponseWriter, r *http.Request) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fault = fault
}

// gets counts the blobs that were read, and the most often that one was.
func (i *internet) gets() (all, most int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for request, n := range i.asked {
		if strings.HasPrefix(request, "GET ") && strings.Contains(request, "/blobs/sha256:") {
			all, most = all+n, max(most, n)
		}
	}
	return all, most
}

func (i *internet) push(t *testing.T, reference string, image remote.Taggable) {
	t.Helper()
	target, err := name.ParseReference(i.host() + "/" + reference)
	if err != nil {
		t.Fatal(err)
	}
	switch image := image.(type) {
	case v1.Image:
		err = remote.Write(target, image)
	case v1.ImageIndex:
		err = remote.WriteIndex(target, image)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mirrored is our registry, asked as a node asks it for images of example.test.
type mirrored struct {
	*upstreams
	dir    string
	server *httptest.Server
}

func newMirrored(t *testing.T, upstream string) *mirrored {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	handler, err := PullThrough(ctx, Handler(ctx, dir, "10.0.0.1:5000"), dir, "10.0.0.1:5000", map[string]string{"example.test": upstream})
	if err != nil {
		t.Fatal(err)
	}
	m := &mirrored{upstreams: handler.(*upstreams), dir: dir, server: httptest.NewServer(handler)}
	t.Cleanup(func() {
		m.server.Close()
		cancel()
		m.settle(t)
	})
	return m
}

func (m *mirrored) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	query := r.URL.Query()
	query.Set("ns", "example.test")
	r.URL.RawQuery = query.Encode()
	return http.DefaultTransport.RoundTrip(r)
}

// pull reads all of an image and returns its digest.
func (m *mirrored) pull(t *testing.T, reference string) (string, error) {
	parsed, err := name.ParseReference(m.server.Listener.Addr().String() + "/" + reference)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(parsed, remote.WithTransport(m), remote.WithContext(t.Context()), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	if err != nil {
		return "", err
	}
	layers, err := image.Layers()
	if err != nil {
		return "", err
	}
	for _, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			return "", err
		}
		_, err = io.Copy(io.Discard, content)
		content.Close()
		if err != nil {
			return "", err
		}
	}
	if _, err := image.RawConfigFile(); err != nil {
		return "", err
	}
	hash, err := image.Digest()
	return hash.String(), err
}

func (m *mirrored) mustPull(t *testing.T, reference string, want v1.Image) {
	t.Helper()
	got, err := m.pull(t, reference)
	if err != nil {
		t.Fatalf("pull %s: %v", reference, err)
	}
	hash, err := want.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got != hash.String() {
		t.Errorf("pull %s: got %s, want %s", reference, got, hash)
	}
}

// settle waits until nothing is being fetched.
func (m *mirrored) settle(t *testing.T) {
	t.Helper()
	err := wait.PollUntilContextTimeout(context.WithoutCancel(t.Context()), 5*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.copies)+len(m.downloads) == 0, nil
	})
	if err != nil {
		t.Errorf("images are still being copied: %v", err)
	}
}

// files lists what is stored below a folder of the store's repository x/y of example.test, or of all blobs.
func (m *mirrored) files(t *testing.T, below string) (found []string) {
	t.Helper()
	root := filepath.Join(m.dir, "docker/registry/v2", below)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !entry.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func randomImage(t *testing.T) v1.Image {
	t.Helper()
	image, err := random.Image(1<<20, 3)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestImageIsFetchedOnce(t *testing.T) {
	upstream := newInternet(t)
	image, other := randomImage(t), randomImage(t)
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}})
	upstream.push(t, "x/y:1", index)
	m := newMirrored(t, upstream.host())

	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { m.mustPull(t, "x/y:1", image) })
	}
	all.Wait()
	m.settle(t)
	if blobs, most := upstream.gets(); blobs != 4 || most != 1 {
		t.Errorf("%d blobs were fetched, one of them %d times; want 4, each once", blobs, most)
	}

	upstream.Close()
	m.mustPull(t, "x/y:1", image)
	references, err := List(t.Context(), m.stored)
	if diff := cmp.Diff([]string{"example.test/x/y:1"}, references); diff != "" || err != nil {
		t.Errorf("List: %v: -want +got:\n%s", err, diff)
	}
}

func TestTagIsAskedForAgain(t *testing.T) {
	upstream := newInternet(t)
	first, second, ours := randomImage(t), randomImage(t), randomImage(t)
	upstream.push(t, "x/y:1", first)
	upstream.push(t, "x/ours:1", first)
	m := newMirrored(t, upstream.host())
	if err := Push(t.Context(), m.stored, "example.test/x/ours:1", ours); err != nil {
		t.Fatal(err)
	}

	m.mustPull(t, "x/y:1", first)
	m.settle(t)
	upstream.push(t, "x/y:1", second)
	m.mustPull(t, "x/y:1", second)
	m.settle(t)
	m.mustPull(t, "x/ours:1", ours) // what was pushed here is ours

	upstream.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	m.mustPull(t, "x/y:1", second)
	upstream.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusNotFound)
		return true
	})
	if _, err := m.pull(t, "x/y:1"); !absent(err) {
		t.Errorf("pull of a tag that is gone upstream: %v, want 404", err)
	}
	upstream.Close()
	m.mustPull(t, "x/y:1", second)
}

func TestNoImage(t *testing.T) {
	upstream := newInternet(t)
	upstream.push(t, "x/y:1", randomImage(t))
	image, err := randomImage(t).Digest()
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		upstream, reference string
		status              int
		text                string
	}{
		"NoSuchTag":        {upstream.host(), "x/y:2", http.StatusNotFound, "example.test has no"},
		"NoSuchRepository": {upstream.host(), "x/z:1", http.StatusNotFound, "example.test has no"},
		"NoSuchDigest":     {upstream.host(), "x/y@" + image.String(), http.StatusNotFound, "example.test has no"},
		"Unreachable":      {"127.0.0.1:1", "x/y:1", http.StatusForbidden, "connection refused"},
		"NoSuchHost":       {"registry.invalid", "x/y:1", http.StatusForbidden, "lookup registry.invalid"},
	}
	for label, tc := range cases {
		t.Run(label, func(t *testing.T) {
			m := newMirrored(t, tc.upstream)
			started := time.Now()
			_, err := m.pull(t, tc.reference)
			answer := (*transport.Error)(nil)
			if !errors.As(err, &answer) || answer.StatusCode != tc.status || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("pull: %v; want status %d and %q", err, tc.status, tc.text)
			}
			if took := time.Since(started); took > lookTimeout {
				t.Errorf("the answer took %s", took)
			}
		})
	}
}

func TestHalfAnImage(t *testing.T) {
	whole := func(w http.ResponseWriter, r *http.Request) bool { return false }
	cut := func(w http.ResponseWriter, r *http.Request) bool { // the line breaks after half a layer
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		w.Header().Set("Content-Length", "1000000")
		w.Write(make([]byte, 500_000))
		panic(http.ErrAbortHandler)
	}
	wrong := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		w.Write(make([]byte, 500_000))
		return true
	}
	for label, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{"Cut": cut, "Wrong": wrong} {
		t.Run(label, func(t *testing.T) {
			upstream := newInternet(t)
			image := randomImage(t)
			upstream.push(t, "x/y:1", image)
			upstream.setFault(fault)
			m := newMirrored(t, upstream.host())
			if _, err := m.pull(t, "x/y:1"); err == nil {
				t.Error("half an image was pulled without an error")
			}
			m.settle(t)
			if left := m.files(t, ""); len(left) > 0 {
				t.Errorf("the store holds %q", left)
			}
			upstream.setFault(whole)
			m.mustPull(t, "x/y:1", image)
			m.settle(t)
			if left := m.files(t, "repositories/example.test/x/y/_uploads"); len(left) > 0 {
				t.Errorf("uploads were left: %q", left)
			}
		})
	}
}

// TestBlobArrivesAsItIsFetched holds the upstream registry back in the middle of a layer: what has come is passed on.
func TestBlobArrivesAsItIsFetched(t *testing.T) {
	upstream := newInternet(t)
	image := randomImage(t)
	upstream.push(t, "x/y:1", image)
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(stored)
	if err != nil {
		t.Fatal(err)
	}
	goOn := make(chan struct{})
	upstream.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, hash.String()) {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content[:len(content)/2])
		w.(http.Flusher).Flush()
		<-goOn
		w.Write(content[len(content)/2:])
		return true
	})
	m := newMirrored(t, upstream.host())
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.server.URL+"/v2/x/y/blobs/"+hash.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := m.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got := make([]byte, 100_000)
	if _, err := io.ReadFull(response.Body, got); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	rest, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(len(content), len(got)+len(rest)); diff != "" {
		t.Errorf("bytes of the blob: -want +got:\n%s", diff)
	}
}
