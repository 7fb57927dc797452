package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// stallTimeout ends a download of which nothing has come for so long.
const stallTimeout = 30 * time.Second

var errStalled = errors.New("nothing has come for " + stallTimeout.String())

// download is one blob on its way into the store. All that ask for it meanwhile read what has come so far, and go on as more comes.
type download struct {
	target
	digest  digest.Digest
	begun   chan struct{} // closed once size and content are set, or it has failed
	ended   chan struct{} // closed once the blob is stored, or it has failed
	size    int64
	content io.ReaderAt // what is on disk so far
	users   sync.WaitGroup

	mu   sync.Mutex
	more chan struct{} // closed when more has come
	err  error         // set before ended is closed
}

// download returns the download of a blob, which may begin now, or nil if the blob is stored. The caller says users.Done at the end.
func (u *upstreams) download(t target, blob digest.Digest, size int64) (*download, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	key := t.local.Name() + "@" + blob.String()
	if d := u.downloads[key]; d != nil {
		d.users.Add(1)
		return d, nil
	}
	repository, err := u.store.Repository(u.ctx, t.local)
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	blobs := repository.Blobs(u.ctx)
	if _, err := blobs.Stat(u.ctx, blob); !errors.Is(err, distribution.ErrBlobUnknown) {
		return nil, err
	}
	d := &download{target: t, digest: blob, size: size, begun: make(chan struct{}), ended: make(chan struct{}), more: make(chan struct{})}
	d.users.Add(1)
	u.downloads[key] = d
	go func() {
		d.err = u.fetch(d, blobs)
		u.mu.Lock()
		delete(u.downloads, key)
		u.mu.Unlock()
		d.close()
	}()
	return d, nil
}

// fetch reads the blob from its registry into the store, where it is whole or not at all.
func (u *upstreams) fetch(d *download, blobs distribution.BlobStore) (err error) {
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-u.ctx.Done():
		return u.ctx.Err()
	}
	ctx, cancel := context.WithCancelCause(u.ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	defer stall.Stop()
	layer, err := u.puller.Layer(ctx, d.remote.Digest(d.digest.String()))
	if err != nil {
		return err
	}
	if d.size == 0 {
		if d.size, err = layer.Size(); err != nil {
			return err
		}
	}
	body, err := layer.Compressed() // checks the digest at the end
	if err != nil {
		return err
	}
	defer body.Close()
	writer, err := blobs.Create(u.ctx)
	if err != nil {
		return fmt.Errorf("store blob: %w", err)
	}
	if err := d.receive(writer, body, func() { stall.Reset(stallTimeout) }); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return errors.Join(err, writer.Cancel(context.WithoutCancel(u.ctx)))
	}
	if _, err := writer.Commit(u.ctx, imagespec.Descriptor{Digest: d.digest, Size: d.size}); err != nil {
		return fmt.Errorf("store blob: %w", err)
	}
	return nil
}

func (d *download) receive(to distribution.BlobWriter, from io.Reader, arrived func()) error {
	content, err := readerOf(to)
	if err != nil {
		return fmt.Errorf("read blob while it is stored: %w", err)
	}
	go func() {
		<-d.ended
		d.users.Wait()
		content.Close()
	}()
	d.content = content
	close(d.begun)
	buffer := make([]byte, 256<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			arrived()
			if _, err := to.Write(buffer[:n]); err != nil {
				return fmt.Errorf("store blob: %w", err)
			}
			d.tell()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readerOf reads at any place what has been written: distribution's writers can do so, though their interface does not say it.
func readerOf(writer distribution.BlobWriter) (*os.File, error) {
	readable, ok := writer.(interface{ Reader() (io.ReadCloser, error) })
	if !ok {
		return nil, fmt.Errorf("%T cannot be read", writer)
	}
	reader, err := readable.Reader()
	if err != nil {
		return nil, err
	}
	file, ok := reader.(*os.File)
	if !ok {
		reader.Close()
		return nil, fmt.Errorf("%T is no file", reader)
	}
	return file, nil
}

// tell wakes all that wait for more.
func (d *download) tell() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.more)
	d.more = make(chan struct{})
}

func (d *download) close() {
	close(d.ended)
	if d.content == nil {
		close(d.begun)
	}
}

// wait returns once the blob is stored.
func (d *download) wait(ctx context.Context) error {
	select {
	case <-d.ended:
		return d.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// copyTo writes the blob as it comes.
func (d *download) copyTo(ctx context.Context, w io.Writer) error {
	buffer := make([]byte, 256<<10)
	for offset := int64(0); offset < d.size; {
		d.mu.Lock()
		more, ended := d.more, false
		d.mu.Unlock()
		select {
		case <-d.ended:
			if ended = true; d.err != nil {
				return d.err
			}
		default:
		}
		n, err := d.content.ReadAt(buffer, offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := w.Write(buffer[:n]); err != nil {
			return err
		}
		if offset += int64(n); n > 0 {
			continue
		}
		if ended {
			return io.ErrUnexpectedEOF
		}
		select {
		case <-more:
		case <-d.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (u *upstreams) serveBlob(w http.ResponseWriter, r *http.Request, t target) {
	d, err := u.download(t, t.digest, 0) //nolint:contextcheck // others may read what one has asked for
	if err != nil {
		serveError(w, errcode.ErrorCodeUnknown.WithMessage(err.Error()))
		return
	}
	if d == nil {
		u.stored.ServeHTTP(w, r)
		return
	}
	defer d.users.Done()
	select {
	case <-d.begun:
	case <-r.Context().Done():
		return
	}
	if r.Header.Get("Range") != "" { // the rest of an earlier attempt
		err = d.wait(r.Context())
	} else if d.content == nil {
		err = d.err
	}
	switch {
	case absent(err):
		serveError(w, errcode.ErrorCodeBlobUnknown.WithMessage(fmt.Sprintf("%s has no blob %s", t.origin, t.digest)))
		return
	case err != nil:
		serveError(w, errcode.ErrorCodeUnavailable.WithMessage(fmt.Sprintf("%s does not give the blob: %v", t.origin, err)))
		return
	case r.Header.Get("Range") != "":
		u.stored.ServeHTTP(w, r)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Content-Length", strconv.FormatInt(d.size, 10))
	header.Set("Docker-Content-Digest", t.digest.String())
	if r.Method == http.MethodHead {
		return
	}
	if err := d.copyTo(r.Context(), w); err != nil {
		panic(http.ErrAbortHandler) // so that the node does not take a part for the whole
	}
}
