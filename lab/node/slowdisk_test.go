package node

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWholeDisk(t *testing.T) {
	root := t.TempDir()
	devices := filepath.Join(root, "dev/block")
	for path, text := range map[string]string{
		"devices/vda/dev": "254:0\n", "devices/vda/vda1/dev": "254:1\n", "devices/vda/vda1/partition": "1\n", "dev/block/.keep": "",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for device, path := range map[string]string{"254:0": "vda", "254:1": "vda/vda1"} {
		if err := os.Symlink(filepath.Join("../../devices", path), filepath.Join(devices, device)); err != nil {
			t.Fatal(err)
		}
	}
	for device, want := range map[string]string{"254:0": "254:0", "254:1": "254:0", "0:35": ""} {
		got, err := wholeDisk(device, devices)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%s is on %q (%v), want %q", device, got, err, want)
		}
	}
}
