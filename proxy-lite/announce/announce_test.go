package announce

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGratuitous(t *testing.T) {
	got := gratuitous(net.HardwareAddr{2, 0, 0, 0, 0, 9}, netip.MustParseAddr("10.0.0.7"))
	want := []byte{
		0, 1, 8, 0, 6, 4, 0, 1, // hardware, protocol, lengths, operation
		2, 0, 0, 0, 0, 9, 10, 0, 0, 7, // sender
		0, 0, 0, 0, 0, 0, 10, 0, 0, 7, // target
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
