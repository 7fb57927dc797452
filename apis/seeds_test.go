package apis

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// TestEveryKindIsCompared holds conformance/differential to having an object of every kind in every version that is served by
// default: what it has none of, it compares nothing of.
func TestEveryKindIsCompared(t *testing.T) {
	files, err := filepath.Glob("../conformance/differential/testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no seeds: %v", err)
	}
	seeds := map[schema.GroupVersionKind]bool{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(data), "\n---\n") {
			var object struct{ APIVersion, Kind string }
			if err := yaml.Unmarshal([]byte(document), &object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			seeds[schema.FromAPIVersionAndKind(object.APIVersion, object.Kind)] = true
		}
	}
	for _, row := range All() {
		for _, gv := range ServedVersions(row) {
			if !seeds[gv.WithKind(row.Kind)] {
				t.Errorf("conformance/differential/testdata has no %s of %s", row.Kind, gv)
			}
		}
	}
}
