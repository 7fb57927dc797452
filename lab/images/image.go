// Package images makes the images that a cluster needs without any outside registry: a file or a tree becomes one uncompressed
// layer (nodes are on the same machine: unpacking costs more than bytes), and layers become an image of an OCI layout.
package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"keelson.dev/lab/registry"
)

// Spec describes an image.
type Spec struct {
	Ref        string            `json:"ref"`   // full reference, for example registry.keelson.dev/demo:1
	Files      map[string]string `json:"files"` // path in the image → file, folder or symlink on this machine
	Entrypoint []string          `json:"entrypoint"`
	Cmd        []string          `json:"cmd"`
	Env        []string          `json:"env"`
	User       string            `json:"user"`
	WorkingDir string            `json:"workingDir"`
	Ports      []string          `json:"ports"` // exposed, for example 8080/tcp
}

// Build makes the image. The same files give the same digest: times and owners are left out.
func Build(spec Spec) (v1.Image, error) {
	content, err := archive(spec.Files)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", spec.Ref, err)
	}
	base := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	image, err := mutate.AppendLayers(base, static.NewLayer(content, types.OCIUncompressedLayer))
	if err != nil {
		return nil, fmt.Errorf("image %s: add layer: %w", spec.Ref, err)
	}
	exposed := map[string]struct{}{}
	for _, port := range spec.Ports {
		exposed[port] = struct{}{}
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image %s: read config: %w", spec.Ref, err)
	}
	file = file.DeepCopy()
	file.Architecture, file.OS = "amd64", "linux"
	file.Config = v1.Config{
		Entrypoint: spec.Entrypoint, Cmd: spec.Cmd, Env: spec.Env, User: spec.User, WorkingDir: spec.WorkingDir,
		ExposedPorts: exposed,
	}
	return mutate.ConfigFile(image, file)
}

// containerdName is the annotation by which `ctr images import` knows an image's name.
const containerdName = "io.containerd.image.name"

// AddToLayout writes the image into the OCI layout at path under its reference, in place of an older one.
func AddToLayout(path string, spec Spec) error {
	image, err := Build(spec)
	if err != nil {
		return err
	}
	if _, err := name.ParseReference(spec.Ref); err != nil {
		return fmt.Errorf("image name %q: %w", spec.Ref, err)
	}
	images, err := layout.FromPath(path)
	if err != nil {
		images, err = layout.Write(path, empty.Index)
	}
	if err != nil {
		return fmt.Errorf("open image layout: %w", err)
	}
	named := match.Annotation(registry.RefAnnotation, spec.Ref)
	err = images.ReplaceImage(image, named, layout.WithAnnotations(map[string]string{registry.RefAnnotation: spec.Ref, containerdName: spec.Ref}))
	if err != nil {
		return fmt.Errorf("write image %s: %w", spec.Ref, err)
	}
	return nil
}

// archive packs the files into one tar, parents first, everything owned by root.
func archive(files map[string]string) ([]byte, error) {
	tree := map[string]string{}
	for target, source := range files {
		if err := collect(tree, strings.Trim(target, "/"), source); err != nil {
			return nil, err
		}
	}
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, target := range withParents(tree) {
		if err := addEntry(writer, target, tree[target]); err != nil {
			return nil, fmt.Errorf("add %s: %w", target, err)
		}
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("close archive: %w", err)
	}
	return buffer.Bytes(), nil
}

func collect(tree map[string]string, target, source string) error {
	return filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		if inside := filepath.Join(target, below); inside != "." {
			tree[inside] = path
		}
		return nil
	})
}

func addEntry(writer *tar.Writer, target, source string) error {
	if source == "" { // a parent that no source names
		return writer.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: target + "/", Mode: folderMode(target)})
	}
	info, err := os.Lstat(source)
	if err != nil {
		return err
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(source); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	clean := &tar.Header{Typeflag: header.Typeflag, Name: target, Linkname: link, Mode: header.Mode, Size: header.Size}
	if info.IsDir() {
		clean.Name += "/"
	}
	if err := writer.WriteHeader(clean); err != nil || !info.Mode().IsRegular() {
		return err
	}
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(writer, file)
	return err
}
