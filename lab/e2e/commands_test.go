//go:build e2e

package e2e

import (
	"fmt"
	"io"
	golog "log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"
)

// commands are what these scripts have beyond those of package script.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"strike": strike,
	"save":   save,
	"serve":  serve,
}

// strike kills a process of a node whose command line holds a text, or sends it another signal: strike NODE TEXT [SIGNAL]
func strike(ts *testscript.TestScript, negate bool, args []string) {
	if negate || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: strike NODE TEXT [SIGNAL]")
	}
	ts.Check(signalInNode(args[0], args[1], append(args, "KILL")[2]))
}

// save writes the toolbox image under another name into an archive, as docker save does: save REFERENCE FILE
func save(ts *testscript.TestScript, negate bool, args []string) {
	if negate || len(args) != 2 {
		ts.Fatalf("usage: save REFERENCE FILE")
	}
	tag, err := name.NewTag(args[0])
	ts.Check(err)
	image, err := bundled("registry.keelson.dev/toolbox:1")
	ts.Check(err)
	ts.Check(tarball.WriteToFile(ts.MkAbs(args[1]), tag, image))
}

// serve is a registry of somebody else, on loopback: serve REFERENCE... offers an image under those names, and sets $UPSTREAM to where it is
// and $FETCHED to a file in which each request for a blob leaves a line.
func serve(ts *testscript.TestScript, negate bool, args []string) {
	if negate || len(args) == 0 {
		ts.Fatalf("usage: serve REFERENCE...")
	}
	image, err := bundled("registry.keelson.dev/toolbox:1")
	ts.Check(err)
	fetched := ts.MkAbs("fetched")
	log, err := os.OpenFile(fetched, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	inner := registry.New(registry.Logger(golog.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			fmt.Fprintln(log, r.URL.Path)
		}
		inner.ServeHTTP(w, r)
	}))
	ts.Defer(func() {
		server.Close()
		_ = log.Close()
	})
	host := server.Listener.Addr().String()
	for _, arg := range args {
		tag, err := name.NewTag(host+"/"+arg, name.StrictValidation)
		ts.Check(err)
		ts.Check(remote.Write(tag, image))
	}
	ts.Setenv("UPSTREAM", host)
	ts.Setenv("FETCHED", fetched)
}

// bundled finds an image in the OCI layout beside the binary.
func bundled(reference string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(filepath.Join(filepath.Dir(keelson), "images"))
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, entry := range manifest.Manifests {
		for _, value := range entry.Annotations {
			if value == reference {
				return index.Image(entry.Digest)
			}
		}
	}
	return nil, fmt.Errorf("no image %s beside %s", reference, keelson)
}
