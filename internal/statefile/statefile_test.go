package statefile_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"keelson.dev/internal/statefile"
)

// TestWriters lets several write a file at once: it is there from then on, and always whole.
func TestWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.crt")
	content := strings.Repeat("whole ", 10000)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 50 {
				if err := statefile.Write(path, []byte(content), 0o644); err != nil {
					t.Error(err)
				}
				if got, err := os.ReadFile(path); err != nil || string(got) != content {
					t.Errorf("%d bytes of %d: %v", len(got), len(content), err)
				}
			}
		})
	}
	group.Wait()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := statefile.Write(path, []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}
