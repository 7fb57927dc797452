// Package layers keeps the house in order: which folder may import which, and what nothing may reach at all.
package layers

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "keelson.dev/"

// mayImport is the table of layers: a folder at the root, and the other folders whose packages it may import.
var mayImport = map[string][]string{
	"cmd":          {"apis", "apiserver", "controllers", "scheduler", "kubelet-lite", "proxy-lite", "lab", "internal"},
	"apiserver":    {"apis", "internal"},
	"controllers":  {"apis", "internal"},
	"scheduler":    {"apis", "internal"},
	"kubelet-lite": {"apis", "internal"},
	"proxy-lite":   {"apis", "internal"},
	"lab":          {"apis", "internal"},
	"apis":         {"internal"},
	"internal":     {"apis"}, // leaf helpers may know the types' own rules, such as quota or QoS
	"hack":         {},
}

// unreachable is what no binary of ours may link, directly or through a library.
var unreachable = []string{"k8s.io/kubernetes/", "github.com/onsi/ginkgo", "github.com/stretchr/testify"}

type listed struct {
	ImportPath string
	Imports    []string
	GoFiles    []string
}

func list(t *testing.T, args ...string) []listed {
	t.Helper()
	command := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,GoFiles"}, args...)...)
	command.Dir = "../.."
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listed
	decoder := json.NewDecoder(bytes.NewReader(output))
	for {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func folder(path string) (string, bool) {
	below, ours := strings.CutPrefix(path, module)
	top, _, _ := strings.Cut(below, "/")
	return top, ours
}

func TestLayers(t *testing.T) {
	for _, p := range list(t, "./...") {
		from, _ := folder(p.ImportPath)
		allowed, known := mayImport[from]
		if !known {
			t.Errorf("%s: folder %q is not in the table: a new folder at the root needs an ADR", p.ImportPath, from)
			continue
		}
		for _, imported := range p.Imports {
			to, ours := folder(imported)
			if ours && to != from && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: %s may import %v", p.ImportPath, imported, from, allowed)
			}
		}
	}
}

func TestNothingUnreachableIsLinked(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/...") {
		for _, banned := range unreachable {
			if strings.HasPrefix(p.ImportPath+"/", banned) {
				t.Errorf("a binary links %s", p.ImportPath)
			}
		}
	}
}

func TestHyphenatedRootsHoldNoGoFiles(t *testing.T) {
	for _, root := range []string{"../../kubelet-lite", "../../proxy-lite"} {
		files, err := filepath.Glob(filepath.Join(root, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) > 0 {
			t.Errorf("%s holds Go files: %v", root, files)
		}
	}
}
