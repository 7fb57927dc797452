package node

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHosts(t *testing.T) {
	dir := t.TempDir()
	n := &Node{Dir: dir}
	machines, nodes := filepath.Join(dir, "hosts"), filepath.Join(dir, "upper/etc/hosts")
	if err := os.MkdirAll(filepath.Dir(nodes), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(machines, "127.0.0.1 localhost\n")
	if err := n.writeHosts(machines); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(nodes); !os.IsNotExist(err) {
		t.Errorf("a table beside the machine's own: %v", err)
	}
	if err := os.Remove(machines); err != nil {
		t.Fatal(err)
	}
	if err := n.writeHosts(machines); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(nodes); err != nil || !strings.Contains(string(text), "127.0.0.1 localhost") {
		t.Errorf("the node's table: %q, %v", text, err)
	}
	write(nodes, "10.0.0.1 mine\n")
	if err := n.writeHosts(machines); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(nodes); err != nil || string(text) != "10.0.0.1 mine\n" {
		t.Errorf("what was there: %q, %v", text, err)
	}
}

func TestResolver(t *testing.T) {
	const stub = "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch home\n"
	for name, test := range map[string]struct {
		configurations []string
		want           string
	}{
		"Plain":         {[]string{"search home\nnameserver 192.168.1.1\n", ""}, "search home\nnameserver 192.168.1.1\n"},
		"OwnServer":     {[]string{"nameserver 127.0.0.1\nnameserver 192.168.1.1\n", ""}, "nameserver 192.168.1.1\n"},
		"Stub":          {[]string{stub, "nameserver 192.168.1.1\nnameserver fe80::1%eth0\n"}, "nameserver 192.168.1.1\nnameserver fe80::1%eth0\n"},
		"OnlyOwnServer": {[]string{"nameserver ::1\n", ""}, "nameserver 172.30.0.1\n"},
		"None":          {[]string{"", ""}, "nameserver 172.30.0.1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := resolver(netip.MustParseAddr("172.30.0.1"), test.configurations...); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
