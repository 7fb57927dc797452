// Command dist writes a software bill of materials of the release in DIR, as CycloneDX 1.6: every program, the Go modules that are built
// into it, as the program itself tells, and the Debian packages that are linked or copied in.
//
//	go run ./hack/dist NAME VERSION DIR [PROGRAM...] >sbom.cdx.json
package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

type component struct {
	Type    string `json:"type"`
	Ref     string `json:"bom-ref,omitempty"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	PURL    string `json:"purl,omitempty"`
	Hashes  []hash `json:"hashes,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"` // hexadecimal
}

type dependency struct {
	Ref  string   `json:"ref"`
	Uses []string `json:"dependsOn,omitempty"`
}

type bill struct {
	Format       string               `json:"bomFormat"`
	SpecVersion  string               `json:"specVersion"`
	Version      int                  `json:"version"`
	Metadata     map[string]component `json:"metadata"`
	Components   []component          `json:"components"`
	Dependencies []dependency         `json:"dependencies"`
}

// linked are the Debian packages in programs that are not of Go alone.
var linked = map[string][]string{
	"runc": {"libc6-dev", "libseccomp-dev"}, "pause": {"libc6-dev"}, "toolbox/bin/busybox": {"busybox-static"},
}

func main() {
	if len(os.Args) < 5 {
		log.Fatal("usage: dist NAME VERSION DIR PROGRAM...")
	}
	self := component{Type: "application", Ref: os.Args[1], Name: os.Args[1], Version: os.Args[2]}
	b := bill{Format: "CycloneDX", SpecVersion: "1.6", Version: 1, Metadata: map[string]component{"component": self}}
	all, libraries := dependency{Ref: self.Ref}, map[string]component{}
	for _, name := range os.Args[4:] {
		program, parts, err := read(os.Args[3], name)
		if err != nil {
			log.Fatalf("%s: %v", name, err)
		}
		uses := dependency{Ref: program.Ref}
		for _, part := range parts {
			uses.Uses = append(uses.Uses, part.Ref)
			if _, known := libraries[part.Ref]; !known {
				libraries[part.Ref] = part
				b.Components = append(b.Components, part)
			}
		}
		all.Uses = append(all.Uses, program.Ref)
		b.Components, b.Dependencies = append(b.Components, program), append(b.Dependencies, uses)
	}
	b.Dependencies = append(b.Dependencies, all)
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	if err := out.Encode(b); err != nil {
		log.Fatal(err)
	}
}

// read returns a program and what is in it.
func read(dir, name string) (program component, parts []component, err error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return component{}, nil, err
	}
	program = component{
		Type: "application", Ref: "program/" + name, Name: name,
		Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(data))}},
	}
	info, err := buildinfo.ReadFile(filepath.Join(dir, name))
	if err != nil && len(linked[name]) == 0 {
		return component{}, nil, err
	}
	if err == nil {
		parts = append(parts, library("golang", "std", strings.TrimPrefix(info.GoVersion, "go")))
		for _, module := range info.Deps {
			module = cmp.Or(module.Replace, module)
			parts = append(parts, library("golang", module.Path, module.Version))
		}
	}
	for _, name := range linked[name] {
		version, err := exec.Command("dpkg-query", "--show", "--showformat=${Version}", name).Output() //nolint:noctx // it asks a file
		if err != nil {
			return component{}, nil, fmt.Errorf("version of Debian package %s: %w", name, err)
		}
		parts = append(parts, library("deb/debian", name, string(version)))
	}
	return program, parts, nil
}

func library(kind, name, version string) component {
	purl := "pkg:" + kind + "/" + name + "@" + version
	return component{Type: "library", Ref: purl, Name: name, Version: version, PURL: purl}
}
