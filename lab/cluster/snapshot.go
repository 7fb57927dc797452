package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/component-base/version"

	"keelson.dev/internal/pki"
	"keelson.dev/lab/node"
	"keelson.dev/lab/registry"
	"keelson.dev/lab/snapshot"
)

// dataDir is the folder of a server's database, inside the node.
const dataDir = "/var/lib/keelson"

// kept are the folders of a node's state that a snapshot holds: what pods wrote. Images, containers and logs are made anew, as are
// certificates.
var kept = []string{"tmp", "etc/kubernetes/manifests", "var/lib/kubelet/pods/*/volumes"}

// keptAbove tells whether a path below a node's state is one of the kept folders, above or below one.
func keptAbove(rel string) bool {
	elements := strings.Split(filepath.ToSlash(rel), "/")
	return slices.ContainsFunc(kept, func(pattern string) bool {
		wanted := strings.Split(pattern, "/")
		n := min(len(elements), len(wanted))
		matched, err := path.Match(path.Join(wanted[:n]...), path.Join(elements[:n]...))
		return matched && err == nil
	})
}

// SnapshotDir is where snapshots lie that are given no path.
func SnapshotDir() string { return filepath.Join(Home(), "snapshots") }

// Snapshots lists the snapshots of this machine, the oldest first: those that were saved by hand, and those that servers saved.
func Snapshots() ([]string, error) {
	var all []string
	for _, dir := range []string{SnapshotDir(), filepath.Join(Home(), "clusters/*/nodes/*/state", dataDir, "snapshots")} {
		files, err := filepath.Glob(filepath.Join(dir, "*"+snapshot.Suffix))
		if err != nil {
			return nil, err
		}
		all = append(all, files...)
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) }) // names end with the time
	return all, nil
}

// FindSnapshot returns the file that a path, or the name of one that Snapshots lists, means.
func FindSnapshot(name string) (string, error) {
	if strings.ContainsRune(name, '/') {
		return name, nil
	}
	all, err := Snapshots()
	if err != nil {
		return "", err
	}
	for _, file := range all {
		if strings.TrimSuffix(filepath.Base(file), snapshot.Suffix) == strings.TrimSuffix(name, snapshot.Suffix) {
			return file, nil
		}
	}
	if _, err := os.Stat(name); err != nil {
		return "", fmt.Errorf("no snapshot %q: keelson snapshot ls shows those that there are", name)
	}
	return name, nil
}

// SaveSnapshot writes the cluster into a file; an empty path means one in SnapshotDir. Workers are frozen, and the pods of servers, while
// the database and local volumes are read: all of it is of one moment. The returned duration is how long that took.
func (c *Cluster) SaveSnapshot(ctx context.Context, file string, withImages bool) (string, time.Duration, error) {
	now := time.Now()
	if file == "" {
		file = filepath.Join(SnapshotDir(), snapshot.Name(c.Name, now))
	}
	images, err := registry.List(ctx, c.ImageHandler(ctx))
	if err != nil {
		return "", 0, err
	}
	state, err := json.Marshal(c.State)
	if err != nil {
		return "", 0, fmt.Errorf("encode cluster state: %w", err)
	}
	client, end, err := c.dialDatabase(ctx)
	if err != nil {
		return "", 0, err
	}
	defer end()

	wake, err := c.freeze(ctx)
	defer wake() //nolint:errcheck // it has been called where it matters
	if err != nil {
		return "", 0, err
	}
	stopped := time.Now()
	db, err := snapshot.FetchDatabase(ctx, client, file)
	if err != nil {
		return "", 0, err
	}
	defer os.Remove(db)
	manifest := snapshot.Manifest{
		Taken: now.UTC(), Cluster: c.Name, Version: version.Get().GitVersion, State: state, Images: images, WithImages: withImages,
	}
	trees := []snapshot.Tree{snapshot.PKI(c.PKIDir())}
	for _, m := range c.Members {
		n := c.Node(m)
		trees = append(trees, snapshot.Tree{Dir: filepath.Join(n.Dir, "upper"), Prefix: path.Join("nodes", m.Name, "upper")}, snapshot.Tree{
			Dir: filepath.Join(n.Dir, "state"), Prefix: path.Join("nodes", m.Name, "state"),
			Leave: func(rel string) bool { return !keptAbove(rel) },
		})
	}
	var still time.Duration
	trees[len(trees)-1].After = func() error {
		err := wake()
		still = time.Since(stopped)
		return err
	}
	if withImages {
		trees = append(trees, snapshot.Tree{Dir: c.imageStore(), Prefix: "images"})
	}
	return file, still, snapshot.Save(file, manifest, db, trees)
}

// freeze stops what could write into a volume, and returns what lets it go on; that may be called again.
func (c *Cluster) freeze(ctx context.Context) (wake func() error, err error) {
	var frozen []*node.Node
	wake = func() error {
		var all error
		for _, n := range frozen {
			all = errors.Join(all, n.Wake(context.WithoutCancel(ctx)))
		}
		frozen = nil
		return all
	}
	for _, m := range c.Members {
		n := c.Node(m)
		status, err := n.Status(ctx)
		if err != nil {
			return wake, err
		}
		if status != node.Running {
			continue
		}
		frozen = append(frozen, n)
		if m.Role == Server {
			err = n.FreezePods(ctx)
		} else {
			err = n.Freeze(ctx)
		}
		if err != nil {
			return wake, err
		}
	}
	return wake, nil
}

// DiffSnapshots tells what became of the objects of one snapshot in another, or, if that is empty, in the cluster of that name.
func DiffSnapshots(ctx context.Context, name, bundle, before, after string, all bool) ([]snapshot.Change, error) {
	work, err := os.MkdirTemp("", "keelson-diff-") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("compare snapshots: %w", err)
	}
	defer os.RemoveAll(work)
	old, err := snapshot.ReadObjects(ctx, before, filepath.Join(work, "before"))
	if err != nil {
		return nil, err
	}
	if after != "" {
		now, err := snapshot.ReadObjects(ctx, after, filepath.Join(work, "after"))
		return snapshot.Diff(old, now, all), err
	}
	c, err := View(name, bundle)
	if err != nil {
		return nil, err
	}
	client, end, err := c.dialDatabase(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	db, err := snapshot.FetchDatabase(ctx, client, filepath.Join(work, "now"))
	if err != nil {
		return nil, err
	}
	now, err := snapshot.Objects(ctx, db, filepath.Join(c.PKIDir(), pki.EncryptionConfig))
	return snapshot.Diff(old, now, all), err
}
