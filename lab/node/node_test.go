package node

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/lab/network"
	"keelson.dev/lab/supervisor"
)

// testBundle finds the built programs; the test needs them and root.
func testBundle(t *testing.T) string {
	t.Helper()
	bundle, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes namespaces and mounts")
	}
	for _, program := range []string{"runc", "keelson-node"} {
		if _, err := os.Stat(filepath.Join(bundle, program)); err != nil {
			t.Skipf("%s is not built: run make build", program)
		}
	}
	return bundle
}

// TestLife takes a node through everything that can be done to it.
func TestLife(t *testing.T) {
	bundle := testBundle(t)
	home, err := os.MkdirTemp("/var/tmp", "keelson-node") //nolint:usetesting // real file system, short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	link := network.Network{Cluster: "node-test", Subnet: netip.MustParsePrefix("172.30.255.0/24")}
	if err := link.Up(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := link.Down(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	n := &Node{
		Name: "n1", Cluster: "node-test", Address: netip.MustParseAddr("172.30.255.2"), Network: link,
		Dir: filepath.Join(home, "nodes", "n1"), Bundle: bundle,
	}
	services := []supervisor.Service{{
		Name: "touch", Args: []string{"/bin/sh", "-c", "echo alive > /var/lib/keelson/mark; exec sleep 1000"}, Log: "/var/log/touch.log",
	}}
	steps := []struct {
		name string
		do   func() error
		want Status
	}{
		{"Start", func() error { return n.Start(ctx, services) }, Running},
		{"StartAgain", func() error { return n.Start(ctx, services) }, Running},
		{"Freeze", func() error { return n.Freeze(ctx) }, Frozen},
		{"Thaw", func() error { return n.Thaw(ctx) }, Running},
		{"Kill", func() error { return n.Kill(ctx) }, Off},
		{"StartAfterKill", func() error { return n.Start(ctx, services) }, Running},
		{"Remove", func() error { return n.Remove(ctx) }, Off},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		got, err := n.Status(ctx)
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s: status -want +got:\n%s", step.name, diff)
		}
	}
	if _, err := os.Stat(n.Dir); !os.IsNotExist(err) {
		t.Errorf("Remove left %s: %v", n.Dir, err)
	}
}
