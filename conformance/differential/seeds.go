package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// namespace is where namespaced seeds are made.
const namespace = "differential"

// seed is a valid object, with the status that is written after it was made.
type seed struct {
	file   string
	object map[string]any
	status any
}

func (s *seed) apiVersion() string { v, _ := s.object["apiVersion"].(string); return v }
func (s *seed) kind() string       { v, _ := s.object["kind"].(string); return v }
func (s *seed) name() string {
	meta, _ := s.object["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	return name
}

// readSeeds reads the objects whose file or kind matches, in the order of the files' names.
func readSeeds(dir string, kinds *regexp.Regexp) ([]*seed, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	var out []*seed
	for _, file := range files {
		list, err := readSeedFile(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, one := range list {
			if kinds.MatchString(one.file) || kinds.MatchString(one.kind()) {
				out = append(out, one)
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no seeds selected")
	}
	return out, nil
}

func readSeedFile(file string) ([]*seed, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	documents := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(data)))
	defer documents.Close()
	var out []*seed
	buffer := make([]byte, len(data)+1)
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		one := &seed{file: strings.TrimSuffix(filepath.Base(file), ".yaml")}
		if err := yaml.Unmarshal(slices.Clone(buffer[:n]), &one.object); err != nil {
			return nil, err
		}
		if one.object == nil {
			continue
		}
		// A status in a seed of a kind with /status is written there; the object is made without.
		one.status = one.object["status"]
		out = append(out, one)
	}
}
