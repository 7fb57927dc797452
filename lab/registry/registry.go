// Package registry serves the machine's images: distribution's registry over TLS, from a folder that all clusters of the machine
// share. Nodes use it as the mirror of every registry, so `nginx` and `registry.k8s.io/pause` resolve without internet; the
// repository of an image from registry R is stored as R/repository. What is not there is fetched from R, if R can be reached.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the storage driver that Handler names
	"github.com/sirupsen/logrus"
)

// shutdownGrace is how long a pull in flight may take once the registry has been told to stop.
const shutdownGrace = 2 * time.Second

// Handler returns the registry over the images below dir. self is the host:port under which it is reached.
func Handler(ctx context.Context, dir, self string) http.Handler {
	logrus.SetOutput(io.Discard) // distribution logs each request through the global logger
	config := &configuration.Configuration{
		Version: configuration.CurrentVersion,
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": dir},
			"delete":     configuration.Parameters{"enabled": true},
			// no cache of blobs: another process may have swept them
		},
		Catalog: configuration.Catalog{MaxEntries: 1000},
		Log:     configuration.Log{Level: "error", AccessLog: configuration.AccessLog{Disabled: true}},
	}
	config.HTTP.Secret = "single-process" // signs upload states; they end with this process
	return mirror(handlers.NewApp(ctx, config), self)
}

// mirror maps the requests of a node that uses us as the mirror of another registry: containerd names that registry in ?ns=.
func mirror(next http.Handler, self string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.URL.Query().Get("ns")
		repository, below := strings.CutPrefix(r.URL.Path, "/v2/")
		if below && repository != "" && origin != "" && origin != self {
			r.URL.Path = "/v2/" + folderOf(origin) + "/" + repository
			r.URL.RawPath = ""
		}
		next.ServeHTTP(w, r)
	})
}

// folderOf is the part of a repository's path that stands for a registry: a port's colon may not stand in it.
func folderOf(registry string) string { return strings.ReplaceAll(registry, ":", "__") }

// Serve answers on address with the given certificate until ctx ends. ready is closed once it listens.
func Serve(ctx context.Context, address string, certificate tls.Certificate, handler http.Handler, ready chan<- struct{}) error {
	listener, err := tls.Listen("tcp", address, &tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
	})
	if err != nil {
		return fmt.Errorf("listen for image pulls: %w", err)
	}
	close(ready)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stopped := context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if server.Shutdown(bounded) != nil {
			server.Close()
		}
	})
	defer stopped()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve images: %w", err)
	}
	return nil
}
