package logs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

func TestSweep(t *testing.T) {
	root, links := t.TempDir(), t.TempDir()
	for _, dir := range []string{"ns_here_u1/c", "ns_gone_u2/c", "other"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"here": root + "/ns_here_u1/c", "gone": root + "/ns_gone_u2/c", "foreign": "/nowhere"} {
		if err := os.Symlink(target, filepath.Join(links, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(root, links, func(uid types.UID) bool { return uid == "u1" }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ns_here_u1", "other"}, names(t, root)); diff != "" {
		t.Errorf("folders:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"foreign", "here"}, names(t, links)); diff != "" {
		t.Errorf("links:\n%s", diff)
	}
	if err := Sweep(filepath.Join(root, "none"), filepath.Join(root, "none"), nil); err != nil {
		t.Errorf("without folders: %v", err)
	}
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
