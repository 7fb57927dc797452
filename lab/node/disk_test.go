package node

import (
	"net/netip"
	"testing"
)

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
