package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"keelson.dev/lab/buildkit"
	"keelson.dev/lab/registry"
)

// imageStore is the folder of all images of this machine: clusters share it.
func (c *Cluster) imageStore() string { return filepath.Join(c.home, "registry") }

// ImageHandler gives access to the machine's images without a socket.
func (c *Cluster) ImageHandler(ctx context.Context) http.Handler {
	return registry.Handler(ctx, c.imageStore(), c.registryAddress())
}

// RemoveImages takes names from images of this machine, and removes what no image needs any more.
func (c *Cluster) RemoveImages(ctx context.Context, references []string) error {
	handler := c.ImageHandler(ctx)
	for _, reference := range references {
		if err := registry.Remove(ctx, handler, reference); err != nil {
			return err
		}
	}
	return registry.Sweep(ctx, c.imageStore())
}

// pullThrough is the same with images that are not on the machine fetched from where they come from.
func (c *Cluster) pullThrough(ctx context.Context) (http.Handler, error) {
	return registry.PullThrough(ctx, c.ImageHandler(ctx), c.imageStore(), c.registryAddress(), c.Upstreams)
}

// Builder builds images into the machine's registry.
func (c *Cluster) Builder(ctx context.Context) (buildkit.Builder, error) {
	images, err := c.pullThrough(ctx)
	return buildkit.Builder{Bundle: c.bundle, Root: filepath.Join(c.home, "buildkit"), Images: images}, err
}

// ServeRegistry serves the machine's images on the cluster's network until ctx ends, and says so on ready.
func (c *Cluster) ServeRegistry(ctx context.Context, ready *os.File) error {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(c.PKIDir(), "registry.crt"), filepath.Join(c.PKIDir(), "registry.key"))
	if err != nil {
		return fmt.Errorf("read certificate of registry: %w", err)
	}
	listening := make(chan struct{})
	go func() {
		select {
		case <-listening:
			fmt.Fprintln(ready, "ready")
		case <-ctx.Done():
		}
		ready.Close()
	}()
	handler, err := c.pullThrough(ctx)
	if err != nil {
		return err
	}
	if err := registry.Import(ctx, handler, filepath.Join(c.bundle, "images")); err != nil {
		return err
	}
	return registry.Serve(ctx, c.registryAddress(), certificate, handler, listening)
}

func (c *Cluster) registryDaemon() daemon {
	return c.daemon("registry", "registry", "serve", "--name", c.Name)
}

// startRegistry runs the registry as a process of its own.
func (c *Cluster) startRegistry(ctx context.Context) error {
	if err := c.registryPair(); err != nil {
		return err
	}
	return c.registryDaemon().start(ctx)
}
