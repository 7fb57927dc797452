package network

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// onMachine has the rest of the test run in a network namespace of its own.
func onMachine(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("makes network namespaces, which only root may")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	machine, err := netns.New()
	must(t, err)
	t.Cleanup(func() { machine.Close() })
}

// TestAddressesStay has nodes come and go: neighbours keep who they send to, so nobody's link-layer address may change.
func TestAddressesStay(t *testing.T) {
	onMachine(t)
	n := Network{Cluster: "addresses", Subnet: netip.MustParsePrefix("172.30.9.0/24")}
	must(t, n.Up(t.Context()))
	before := hardwareOf(t, n.Bridge())
	first, second := netip.MustParseAddr("172.30.9.2"), netip.MustParseAddr("172.30.9.3")
	for range 8 { // a bridge would take the lowest address of its ports, which are chance
		pid := node(t)
		must(t, n.Plug(pid, first))
		if got := insideOf(t, pid); !bytes.Equal(got, hardware(first)) {
			t.Errorf("a node has %v, want %v", got, hardware(first))
		}
		must(t, n.Plug(node(t), second))
		if now := hardwareOf(t, n.Bridge()); !bytes.Equal(now, before) {
			t.Fatalf("the machine's end changed from %v to %v", before, now)
		}
	}
}

// TestRouted wants that nodes reach each other by the machine only, or else directly.
func TestRouted(t *testing.T) {
	onMachine(t)
	for _, routed := range []bool{false, true} {
		n := Network{Cluster: fmt.Sprint("routed-", routed), Subnet: netip.MustParsePrefix("172.30.8.0/24"), Routed: routed}
		must(t, n.Up(t.Context()))
		first, second := netip.MustParseAddr("172.30.8.2"), netip.MustParseAddr("172.30.8.3")
		pid := node(t)
		must(t, n.Plug(pid, first))
		must(t, n.Plug(node(t), second))
		routes, err := inside(t, pid).RouteGet(second.AsSlice())
		must(t, err)
		if byMachine := routes[0].Gw != nil; byMachine != routed {
			t.Errorf("routed: %t, and a node sends to another by %v", routed, routes[0].Gw)
		}
		cable, err := netlink.LinkByName(n.veth(first))
		must(t, err)
		port, err := netlink.LinkGetProtinfo(cable)
		must(t, err)
		if port.Isolated != routed {
			t.Errorf("routed: %t, and a node's frames are kept from others: %t", routed, port.Isolated)
		}
		must(t, n.Down(t.Context()))
		for _, name := range []string{n.Bridge(), n.veth(first), n.veth(second)} {
			if _, err := netlink.LinkByName(name); !errors.As(err, &netlink.LinkNotFoundError{}) {
				t.Errorf("%s is left: %v", name, err)
			}
		}
	}
}

// node is a process with a network namespace of its own.
func node(t *testing.T) int {
	t.Helper()
	command := exec.CommandContext(t.Context(), "unshare", "--net", "sh", "-c", "echo; exec sleep 600")
	ready, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	_, err = ready.Read(make([]byte, 1))
	must(t, err)
	return command.Process.Pid
}

func hardwareOf(t *testing.T, name string) []byte {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	return link.Attrs().HardwareAddr
}

func insideOf(t *testing.T, pid int) []byte {
	t.Helper()
	link, err := inside(t, pid).LinkByName("eth0")
	must(t, err)
	return link.Attrs().HardwareAddr
}

func inside(t *testing.T, pid int) *netlink.Handle {
	t.Helper()
	namespace, err := netns.GetFromPid(pid)
	must(t, err)
	defer namespace.Close()
	handle, err := netlink.NewHandleAt(namespace)
	must(t, err)
	t.Cleanup(handle.Close)
	return handle
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
