package images

import (
	"fmt"
	"os"
	"path/filepath"
)

// The images that every cluster needs. Their names are those that pods use; the registry of the machine answers for all.
const (
	Pause   = "registry.k8s.io/pause:3.10.2"
	CoreDNS = "registry.keelson.dev/coredns:1.14.7"
	Demo    = "registry.keelson.dev/demo:1"
	// MetricsServer is pulled by clusters that have the addon of that name.
	MetricsServer = "registry.keelson.dev/metrics-server:0.9.0"
	// Traefik is pulled by clusters that have the addon ingress. It is there once make ingress has built it.
	Traefik = "registry.keelson.dev/traefik:3.7.13"
	Toolbox = "registry.keelson.dev/toolbox:1"
)

// BuildBundled makes the bundled images from the binaries in dir and writes them into its OCI layout dir/images.
func BuildBundled(dir string) error {
	specs := []Spec{
		{
			Ref: Pause, User: "65535:65535", Entrypoint: []string{"/pause"},
			Files: map[string]string{"pause": filepath.Join(dir, "pause")},
		},
		{
			Ref: CoreDNS, Entrypoint: []string{"/coredns"}, Ports: []string{"53/udp", "53/tcp"},
			Files: map[string]string{"coredns": filepath.Join(dir, "coredns")},
		},
		{
			Ref: Demo, User: "65532:65532", Entrypoint: []string{"/demo"}, Ports: []string{"8080/tcp"},
			Files: map[string]string{"demo": filepath.Join(dir, "demo")},
		},
		{
			Ref: MetricsServer, User: "65532:65532", Entrypoint: []string{"/metrics-server"}, Ports: []string{"10250/tcp"},
			Files: map[string]string{"metrics-server": filepath.Join(dir, "metrics-server")},
		},
		{ // a shell and its friends, to look around with, and a client for HTTP
			Ref: Toolbox, Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/bin"},
			Files: map[string]string{"/": filepath.Join(dir, "toolbox"), "bin/demo": filepath.Join(dir, "demo")},
		},
	}
	traefik := filepath.Join(dir, "traefik")
	if _, err := os.Stat(traefik); err == nil {
		specs = append(specs, Spec{
			Ref: Traefik, User: "65532:65532", Entrypoint: []string{"/traefik"}, Ports: []string{"80/tcp", "443/tcp"},
			Files: map[string]string{"traefik": traefik},
		})
	}
	target := filepath.Join(dir, "images")
	if err := os.RemoveAll(target); err != nil {
		return fmt.Errorf("clear image layout: %w", err)
	}
	for _, spec := range specs {
		if err := AddToLayout(target, spec); err != nil {
			return err
		}
	}
	return nil
}
