// Package snapshot keeps a cluster in one file: a tar archive, compressed by zstd, whose first entry says what it is. Behind it stand
// etcd's own snapshot, the PKI folder, what nodes hold besides images and logs, and, where asked for, the machine's images:
//
//	snapshot.json   the Manifest
//	etcd.db         as etcdctl snapshot save writes it
//	pki/...         authorities, the key of service account tokens, the key of secrets at rest
//	nodes/NAME/...  upper (what the node changed of the machine's root) and state (folders on the machine's own file system)
//	images/...      the registry's folder
//
// The file holds keys: its mode is 0600.
package snapshot

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/internal/pki"
)

// Suffix ends the names of snapshots.
const Suffix = ".tar.zst"

const (
	manifestEntry = "snapshot.json"
	database      = "etcd.db"
	// format is raised when an older Keelson could not restore what this one writes.
	format = 1
	// maxManifest bounds what is read of a file that may be something else, in bytes.
	maxManifest = 4 << 20
)

// Manifest says what a snapshot is.
type Manifest struct {
	Format   int       `json:"format"`
	Taken    time.Time `json:"taken"`
	Cluster  string    `json:"cluster"`
	Version  string    `json:"version"`  // of Keelson
	Revision int64     `json:"revision"` // of etcd
	Objects  int       `json:"objects"`
	// State is the lab's memory of the cluster; a server that saves by itself knows none.
	State json.RawMessage `json:"state,omitempty"`
	// Images are references in the machine's registry; WithImages tells that the snapshot holds them too.
	Images     []string `json:"images,omitempty"`
	WithImages bool     `json:"withImages,omitempty"`
}

// Tree is a folder that goes into a snapshot.
type Tree struct {
	Dir    string                // on the machine
	Prefix string                // in the archive
	Leave  func(rel string) bool // leaves out a path relative to Dir, with what is below it; nil: nothing
	After  func() error          // is called when the tree has been read; nil: nothing
}

// Save writes a snapshot in one step: nobody sees a part of it. db is what FetchDatabase wrote.
func Save(path string, m Manifest, db string, trees []Tree) (err error) {
	if m.Revision, m.Objects, err = Count(db); err != nil {
		return err
	}
	staged := path + ".part"
	file, err := os.OpenFile(staged, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	defer func() {
		file.Close()
		if err != nil {
			_ = os.Remove(staged)
		}
	}()
	if err := write(file, m, db, trees); err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	if err := errors.Join(file.Sync(), file.Close(), os.Rename(staged, path)); err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	return nil
}

func write(to io.Writer, m Manifest, db string, trees []Tree) error {
	compressed, err := zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	defer compressed.Close()
	archive := tar.NewWriter(compressed)
	m.Format = format
	head, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: manifestEntry, Mode: 0o600, Size: int64(len(head)), ModTime: m.Taken}); err != nil {
		return err
	}
	if _, err := archive.Write(head); err != nil {
		return err
	}
	if err := (&packer{archive: archive}).file(db, database); err != nil {
		return err
	}
	for _, tree := range trees {
		if err := pack(archive, tree); err != nil {
			return err
		}
		if tree.After != nil {
			if err := tree.After(); err != nil {
				return err
			}
		}
	}
	return errors.Join(archive.Close(), compressed.Close())
}

// Snapshot is an open snapshot: read once, from the manifest on.
type Snapshot struct {
	Manifest
	archive *tar.Reader
	close   func()
}

// Open reads the manifest.
func Open(path string) (*Snapshot, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	plain, err := zstd.NewReader(file, zstd.WithDecoderConcurrency(1))
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open snapshot %s: %w", path, err)
	}
	s := &Snapshot{archive: tar.NewReader(plain), close: func() { plain.Close(); file.Close() }}
	if err := s.readManifest(); err != nil {
		s.close()
		return nil, fmt.Errorf("%s is no snapshot of keelson: %w", path, err)
	}
	return s, nil
}

func (s *Snapshot) readManifest() error {
	head, err := s.archive.Next()
	if err != nil {
		return err
	}
	if head.Name != manifestEntry {
		return fmt.Errorf("it begins with %q", head.Name)
	}
	if err := json.NewDecoder(io.LimitReader(s.archive, maxManifest)).Decode(&s.Manifest); err != nil {
		return err
	}
	if s.Format != format {
		return fmt.Errorf("its format is %d, this keelson knows %d", s.Format, format)
	}
	return nil
}

// Close ends reading.
func (s *Snapshot) Close() { s.close() }

// Extract writes what is left of the snapshot below the folders that place names by the first element of an entry's path ("etcd.db",
// "pki", "nodes", "images"); an empty folder leaves it out. The folders must exist.
func (s *Snapshot) Extract(place func(first string) string) error {
	roots := map[string]*os.Root{}
	defer func() {
		for _, root := range roots {
			root.Close()
		}
	}()
	for {
		head, err := s.archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read snapshot: %w", err)
		}
		first, rest, below := strings.Cut(head.Name, "/")
		dir := place(first)
		if dir == "" {
			continue
		}
		switch {
		case !below && head.Typeflag == tar.TypeDir:
			rest = "."
		case !below:
			rest = first
		}
		if roots[dir] == nil {
			if roots[dir], err = os.OpenRoot(dir); err != nil {
				return fmt.Errorf("restore %s: %w", first, err)
			}
		}
		if err := unpack(roots[dir], rest, head, s.archive); err != nil {
			return fmt.Errorf("restore %s: %w", head.Name, err)
		}
	}
}

// Name is the file name of a cluster's snapshot of that time: names of one cluster sort by it.
func Name(cluster string, taken time.Time) string {
	return cluster + "-" + taken.UTC().Format("20060102T150405.000Z") + Suffix
}

// PKI is the part of a PKI folder that a snapshot holds.
func PKI(dir string) Tree {
	return Tree{Dir: dir, Prefix: "pki", Leave: func(rel string) bool { return rel != "etcd" && !slices.Contains(pki.Shared, rel) }}
}

// ReadObjects extracts the database of a snapshot into a folder, which is made, and reads its objects.
func ReadObjects(ctx context.Context, path, dir string) (map[string]*unstructured.Unstructured, error) {
	s, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	places := map[string]string{"etcd.db": dir, "pki": dir}
	if err := s.Extract(func(first string) string { return places[first] }); err != nil {
		return nil, err
	}
	return Objects(ctx, filepath.Join(dir, database), filepath.Join(dir, pki.EncryptionConfig))
}
