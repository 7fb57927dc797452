package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"keelson.dev/lab/registry"
	"keelson.dev/lab/snapshot"
)

// Restore brings a cluster back as a snapshot has it, under the name of the options: the cluster of that name is replaced; where there is
// none, a new one is made, on a network of its own. It returns when the cluster serves. Where it is cut short, it can be run again.
func Restore(ctx context.Context, file string, options Options) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, options.Timeout)
	defer cancel()
	if err := Preflight(options.Bundle); err != nil {
		return nil, err
	}
	s, err := snapshot.Open(file)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	c, err := Open(options.Name, options.Bundle)
	made := errors.Is(err, ErrNotFound)
	if made {
		if s.State == nil {
			return nil, fmt.Errorf("%s was saved by a server and knows no nodes: %w", file, err)
		}
		c, err = create(options.Name, options.Bundle)
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	options.Step("snapshot of %s, taken %s, revision %d", s.Cluster, s.Taken.Format("2006-01-02 15:04:05 MST"), s.Revision)
	if c.Restoring, err = filepath.Abs(file); err != nil {
		return nil, err
	}
	if err := c.replace(ctx, s, options); err != nil {
		if made {
			err = errors.Join(err, os.RemoveAll(c.dir()))
		}
		return nil, fmt.Errorf("restore %s: %w", file, err)
	}
	if err := c.start(ctx, options); err != nil {
		return nil, err
	}
	return c, c.settle(ctx, options)
}

// replace puts what the snapshot holds where the cluster's own things are. All of it has been read before anything is taken away.
func (c *Cluster) replace(ctx context.Context, s *snapshot.Snapshot, options Options) error {
	stage := filepath.Join(c.dir(), "restore")
	if err := errors.Join(os.RemoveAll(stage), os.MkdirAll(filepath.Join(stage, "nodes"), 0o700),
		os.MkdirAll(filepath.Join(stage, "pki"), 0o755), os.MkdirAll(c.imageStore(), 0o755)); err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	places := map[string]string{
		"etcd.db": stage, "pki": filepath.Join(stage, "pki"), "nodes": filepath.Join(stage, "nodes"), "images": c.imageStore(),
	}
	if err := s.Extract(func(first string) string { return places[first] }); err != nil {
		return err
	}
	adopted, err := c.adopt(s)
	if err != nil {
		return err
	}
	server := (&Cluster{State: adopted}).servers()[0]
	restored := filepath.Join(stage, "server")
	if err := snapshot.RestoreDatabase(ctx, filepath.Join(stage, "etcd.db"), restored); err != nil {
		return err
	}
	c.tellMissingImages(ctx, s, options)

	if err := c.save(); err != nil { // from here on up refuses, until all is in its place
		return err
	}
	if len(c.Members) > 0 {
		options.Step("nodes %s make room", c.memberNames())
	}
	if err := c.clear(ctx, s.State == nil); err != nil {
		return err
	}
	c.State = adopted
	for _, m := range c.Members {
		err := errors.Join(place(filepath.Join(stage, "nodes", m.Name), c.Node(m).Dir), place(c.scheduled(m), c.Node(m).StatePath(dataDir+"/snapshots")),
			os.RemoveAll(c.Node(m).StatePath(dataDir+"/member")))
		if err != nil {
			return err
		}
	}
	data := c.Node(server).StatePath(dataDir)
	if err := errors.Join(os.RemoveAll(c.PKIDir()), os.MkdirAll(data, 0o700)); err != nil {
		return err
	}
	if err := errors.Join(place(filepath.Join(stage, "pki"), c.PKIDir()), place(filepath.Join(restored, "member"), filepath.Join(data, "member"))); err != nil {
		return err
	}
	return c.save()
}

// place moves a folder; one that is not there is no error.
func place(from, to string) error {
	if _, err := os.Stat(from); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// adopt returns the state of the cluster after the restore: the snapshot's, on this cluster's network and under its name.
func (c *Cluster) adopt(s *snapshot.Snapshot) (State, error) {
	if s.State == nil {
		adopted := c.State
		adopted.Restoring, adopted.Etcd = "", nil
		return adopted, nil
	}
	var adopted State
	if err := json.Unmarshal(s.State, &adopted); err != nil {
		return State{}, fmt.Errorf("read cluster state: %w", err)
	}
	adopted.Name, adopted.Subnet, adopted.Restoring = c.Name, c.Subnet, ""
	adopted.Etcd = nil // what an external etcd held goes into one of its own
	first := true
	for i := range adopted.Members {
		m := &adopted.Members[i]
		address := c.Subnet.Masked().Addr().As4()
		address[3] = m.Address.As4()[3]
		m.Address = netip.AddrFrom4(address)
		m.Invited = false     // invitations have expired
		if m.Role == Server { // the database is restored into the first; the others join it
			m.Joins, m.Off, first = !first, false, false
		}
	}
	return adopted, nil
}

// clear ends what runs of the cluster. Its nodes go with all that they had, unless they are to keep it.
func (c *Cluster) clear(ctx context.Context, keep bool) error {
	if err := c.stopDaemons(ctx); err != nil {
		return err
	}
	return c.eachNode(ctx, c.Members, func(ctx context.Context, m Member) error {
		if keep {
			return c.Node(m).Kill(ctx)
		}
		if err := place(c.Node(m).StatePath(dataDir+"/snapshots"), c.scheduled(m)); err != nil {
			return err
		}
		return c.Node(m).Remove(ctx)
	})
}

// scheduled is where the snapshots that a server has saved by itself wait while the server is replaced.
func (c *Cluster) scheduled(m Member) string { return filepath.Join(c.dir(), "snapshots", m.Name) }

// tellMissingImages names the images that nodes will ask for in vain.
func (c *Cluster) tellMissingImages(ctx context.Context, s *snapshot.Snapshot, options Options) {
	here, err := registry.List(ctx, c.ImageHandler(ctx))
	if err != nil {
		options.Step("images: %v", err)
		return
	}
	missing := slices.DeleteFunc(slices.Clone(s.Images), func(image string) bool { return slices.Contains(here, image) })
	if len(missing) > 0 {
		options.Step("this machine has not the images %s: load them, or save with --images", strings.Join(missing, ", "))
	}
}
