//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"
)

// commands are what these scripts have beyond those of package script.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"strike": strike,
	"save":   save,
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
