package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"
	"k8s.io/klog/v2"
)

const (
	// lookTimeout bounds the question for one manifest, authentication included.
	lookTimeout = 10 * time.Second
	dialTimeout = 3 * time.Second
	// downloadsAtOnce bounds the blobs that are fetched at the same time: more share the same line.
	downloadsAtOnce = 6
	maxThreads      = 100 // of one process in the store
)

// upstreams serves what is stored, and fetches what is not from the registry that the image's name speaks of. A tag that has come from
// there is asked for again each time; one that was pushed or loaded here is ours. An image gets its tag once all of it is stored; until
// then nodes are given what has arrived.
type upstreams struct {
	ctx     context.Context // of copies, which outlast the request that began them
	self    string
	dir     string
	stored  http.Handler
	store   distribution.Namespace
	instead map[string]string // registry → the one that is asked in its place
	puller  *remote.Puller
	lookups singleflight.Group
	slots   chan struct{}

	mu        sync.Mutex
	downloads map[string]*download // by repository@digest
	copies    map[string]*copying  // by reference@digest; as many as nodes pull at once
}

// PullThrough makes a registry of the one that Handler has returned for dir and self: it fetches images that are not there until ctx
// ends. instead names, for a registry, the host[:port] that is asked in its place.
func PullThrough(ctx context.Context, handler http.Handler, dir, self string, instead map[string]string) (http.Handler, error) {
	_, store, err := openStore(ctx, dir)
	if err != nil {
		return nil, err
	}
	line := remote.DefaultTransport.(*http.Transport).Clone()
	line.DialContext = (&dialer{failed: map[string]failure{}}).dial
	line.TLSHandshakeTimeout, line.ResponseHeaderTimeout = dialTimeout, lookTimeout
	puller, err := remote.NewPuller(remote.WithTransport(line), remote.WithRetryBackoff(remote.Backoff{Steps: 1})) // who asks, asks again
	if err != nil {
		return nil, fmt.Errorf("make client of registries: %w", err)
	}
	return &upstreams{
		ctx: ctx, self: self, dir: filepath.Join(dir, "upstream"), stored: handler, store: store, instead: instead, puller: puller,
		slots: make(chan struct{}, downloadsAtOnce), downloads: map[string]*download{}, copies: map[string]*copying{},
	}, nil
}

// openStore opens the images below dir without a server.
func openStore(ctx context.Context, dir string) (driver.StorageDriver, distribution.Namespace, error) {
	files := filesystem.New(filesystem.DriverParameters{RootDirectory: dir, MaxThreads: maxThreads})
	store, err := storage.NewRegistry(ctx, files)
	if err != nil {
		return nil, nil, fmt.Errorf("open image store: %w", err)
	}
	return files, store, nil
}

// target is what a node asks for.
type target struct {
	origin string          // the registry that the image's name speaks of
	local  reference.Named // the repository's name in the store
	remote name.Repository
	blob   bool
	tag    string
	digest digest.Digest // of a request by digest
}

func (t target) String() string {
	if t.tag != "" {
		return t.local.Name() + ":" + t.tag
	}
	return t.local.Name() + "@" + t.digest.String()
}

var requestPath = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs)/([^/]+)$`)

// parse returns what a request asks for, and false if it is no pull through us.
func (u *upstreams) parse(r *http.Request) (target, bool) {
	origin, parts := r.URL.Query().Get("ns"), requestPath.FindStringSubmatch(r.URL.Path)
	if parts == nil || origin == "" || origin == u.self || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return target{}, false
	}
	if u.instead[origin] == "" && loopback(origin) { // the node means itself
		return target{}, false
	}
	t := target{origin: origin, blob: parts[2] == "blobs"}
	var err error
	if t.local, err = reference.WithName(folderOf(origin) + "/" + parts[1]); err != nil {
		return target{}, false
	}
	if t.remote, err = name.NewRepository(cmp.Or(u.instead[origin], origin) + "/" + parts[1]); err != nil {
		return target{}, false
	}
	if t.digest, err = digest.Parse(parts[3]); err != nil {
		t.tag, t.digest = parts[3], ""
	}
	return t, t.digest != "" || !t.blob
}

func loopback(registry string) bool {
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	return host == "localhost" || net.ParseIP(strings.Trim(host, "[]")).IsLoopback()
}

func (u *upstreams) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, ok := u.parse(r)
	switch {
	case !ok:
		u.stored.ServeHTTP(w, r)
	case t.blob:
		u.serveBlob(w, r, t)
	default:
		u.serveManifest(w, r, t)
	}
}

func (u *upstreams) serveManifest(w http.ResponseWriter, r *http.Request, t target) {
	local, err := u.present(r.Context(), t)
	if err != nil {
		serveError(w, errcode.ErrorCodeUnknown.WithMessage(err.Error()))
		return
	}
	if local != "" && (t.tag == "" || !u.fetched(t.local, local)) {
		u.stored.ServeHTTP(w, r)
		return
	}
	found, err := u.look(t, local) //nolint:contextcheck // a copy outlasts the request that began it
	switch {
	case err == nil && found == nil:
		u.stored.ServeHTTP(w, r)
	case err == nil:
		header := w.Header()
		header.Set("Content-Type", string(found.MediaType))
		header.Set("Content-Length", strconv.FormatInt(found.Size, 10))
		header.Set("Docker-Content-Digest", found.Digest.String())
		if r.Method == http.MethodGet {
			_, _ = w.Write(found.Manifest) // who asked may have gone
		}
	case absent(err):
		serveError(w, errcode.ErrorCodeManifestUnknown.WithMessage(fmt.Sprintf("%s has no %s", t.origin, t)))
	case local != "":
		klog.FromContext(r.Context()).Info("Registry does not answer: the stored image is used", "image", t.String(), "err", err)
		u.stored.ServeHTTP(w, r)
	default: // 403 is the only status whose text containerd shows when it resolves a name
		serveError(w, errcode.ErrorCodeDenied.WithMessage(fmt.Sprintf("image is not stored here and %s does not give it: %v", t.origin, err)))
	}
}

// present is the digest of the manifest as stored, empty if there is none.
func (u *upstreams) present(ctx context.Context, t target) (digest.Digest, error) {
	repository, err := u.store.Repository(ctx, t.local)
	if err != nil {
		return "", fmt.Errorf("open repository: %w", err)
	}
	if t.tag != "" {
		found, err := repository.Tags(ctx).Get(ctx, t.tag)
		if unknown := (distribution.ErrTagUnknown{}); errors.As(err, &unknown) {
			return "", nil
		}
		return found.Digest, err
	}
	manifests, err := repository.Manifests(ctx)
	if err != nil {
		return "", fmt.Errorf("open repository: %w", err)
	}
	if exists, err := manifests.Exists(ctx, t.digest); err != nil || !exists {
		return "", err
	}
	return t.digest, nil
}

// look asks the upstream registry for a manifest and begins to copy its image. It returns nil if the manifest is the local one.
func (u *upstreams) look(t target, local digest.Digest) (*remote.Descriptor, error) {
	found, err, _ := u.lookups.Do(t.String(), func() (any, error) {
		known, copied := local, u.copying(t)
		if copied != nil {
			known = digest.Digest(copied.Digest.String())
		}
		if t.tag == "" && copied != nil {
			return copied, nil
		}
		ctx, cancel := context.WithTimeout(u.ctx, lookTimeout)
		defer cancel()
		if known != "" { // to ask for a digest costs nothing where manifests are rationed
			if head, err := u.puller.Head(ctx, t.reference()); err == nil && head.Digest.String() == known.String() {
				return copied, nil
			}
		}
		got, err := u.puller.Get(ctx, t.reference())
		if err != nil {
			return nil, err
		}
		if got.Digest.String() == local.String() {
			return (*remote.Descriptor)(nil), nil
		}
		u.begin(t, got)
		return got, nil
	})
	if err != nil {
		return nil, err
	}
	return found.(*remote.Descriptor), nil
}

func (t target) reference() name.Reference {
	if t.tag != "" {
		return t.remote.Tag(t.tag)
	}
	return t.remote.Digest(t.digest.String())
}

// fetched tells whether the manifest has come from an upstream registry.
func (u *upstreams) fetched(repository reference.Named, manifest digest.Digest) bool {
	_, err := os.Stat(u.mark(repository, manifest))
	return err == nil
}

// mark is the file that says so.
func (u *upstreams) mark(repository reference.Named, manifest digest.Digest) string {
	return filepath.Join(u.dir, filepath.FromSlash(repository.Name()), manifest.String())
}

func (u *upstreams) setMark(repository reference.Named, manifest digest.Digest) error {
	path := u.mark(repository, manifest)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return file.Close()
}

// absent tells whether the registry has answered that it has not got it.
func absent(err error) bool {
	answer := (*transport.Error)(nil)
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound
}

func serveError(w http.ResponseWriter, err error) { _ = errcode.ServeJSON(w, err) }

// failureMemory is how long a registry that cannot be reached is not tried again: a pull asks several times, and many may pull.
const failureMemory = 10 * time.Second

type failure struct {
	err   error
	until time.Time
}

// dialer connects, and remembers for a while where it could not.
type dialer struct {
	mu     sync.Mutex
	failed map[string]failure
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	last, failed := d.failed[address]
	d.mu.Unlock()
	if failed && time.Now().Before(last.until) {
		return nil, last.err
	}
	connection, err := (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext(ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err == nil:
		delete(d.failed, address)
	case !errors.Is(ctx.Err(), context.Canceled):
		for other, f := range d.failed {
			if time.Now().After(f.until) {
				delete(d.failed, other)
			}
		}
		d.failed[address] = failure{err, time.Now().Add(failureMemory)}
	}
	return connection, err
}
