// Package testnet builds a small network of network namespaces for tests: a node, pods that hang on it by routed veth pairs, and
// hosts outside. It needs root; tests that use it are skipped without.
//
// Hosts are named by IPv4 addresses. Where the machine has IPv6 each has a second one, below fd00::/96 with the same last four bytes.
package testnet

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// Net is the network. Every namespace is anonymous but for its name under /run/netns, which is removed at the end of the test.
type Net struct {
	t      *testing.T
	prefix string
	Node   *Host
	// V6 says that IP and the hosts' Addr are the addresses of IPv6.
	V6       bool
	families []family
	n        int
}

// family is an IP family; its name is the flag of ip.
type family string

const v4, v6 family = "-4", "-6"

// Host is one network namespace.
type Host struct {
	t    *testing.T
	name string
	ns   netns.NsHandle
	Addr netip.Addr
}

// Gateway is the node's address on every pod's link.
const Gateway = "10.244.7.1"

// New makes the node, or skips the test.
func New(t *testing.T) *Net {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	n := &Net{t: t, prefix: fmt.Sprintf("klt%d", os.Getpid()), families: []family{v4}}
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil {
		n.families = append(n.families, v6)
	}
	return n.Beside("node")
}

// Beside makes another node, which has no link yet.
func (n *Net) Beside(name string) *Net {
	n.t.Helper()
	other := &Net{t: n.t, prefix: n.prefix, V6: n.V6, families: n.families}
	other.Node = other.host(name)
	sysctls := []string{"net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0"}
	if len(n.families) > 1 {
		sysctls = append(sysctls, "net.ipv6.conf.all.forwarding=1", "net.ipv6.icmp.ratelimit=0")
	}
	other.Node.Run("sysctl", append([]string{"-qw"}, sysctls...)...)
	return other
}

// NewV6 is New for a test of IPv6, which is skipped without.
func NewV6(t *testing.T) *Net {
	t.Helper()
	n := New(t)
	n.V6 = true
	if len(n.families) == 1 {
		t.Skip("needs IPv6")
	}
	return n
}

// IP is the host's address of this network's family; what is no address stays.
func (n *Net) IP(text string) string {
	if n.V6 {
		return v6.ip(text)
	}
	return text
}

// CIDR is the same for a prefix.
func (n *Net) CIDR(text string) string {
	p := netip.MustParsePrefix(text)
	if n.V6 {
		return v6.prefix(p.Addr().String(), p.Bits())
	}
	return text
}

func (f family) ip(text string) string {
	addr, err := netip.ParseAddr(text)
	if err != nil || f == v4 {
		return text
	}
	four := addr.As4()
	return netip.AddrFrom16([16]byte{0: 0xfd, 12: four[0], 13: four[1], 14: four[2], 15: four[3]}).String()
}

// prefix is an address with a length, which is that of the IPv4 prefix.
func (f family) prefix(text string, bits int) string {
	if f == v6 {
		bits += 96
	}
	return fmt.Sprintf("%s/%d", f.ip(text), bits)
}

// address gives a host its addresses.
func (n *Net) address(h *Host, addr string, bits int, dev string) {
	n.t.Helper()
	for _, f := range n.families {
		h.Run("ip", "addr", "add", f.prefix(addr, bits), "dev", dev)
	}
}

// route adds a route in every family.
func (n *Net) route(h *Host, args ...string) {
	n.t.Helper()
	for _, f := range n.families {
		own := []string{string(f), "route", "add"}
		for _, arg := range args {
			own = append(own, f.ip(arg))
		}
		h.Run("ip", own...)
	}
}

func (n *Net) host(name string) *Host {
	n.t.Helper()
	h := &Host{t: n.t, name: n.prefix + "-" + name}
	run(n.t, "ip", "netns", "add", h.name)
	n.t.Cleanup(func() {
		h.ns.Close()
		run(n.t, "ip", "netns", "del", h.name)
	})
	ns, err := netns.GetFromName(h.name)
	if err != nil {
		n.t.Fatal(err)
	}
	h.ns = ns
	if len(n.families) > 1 { // addresses are good at once, without a look for duplicates
		h.Run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.dad_transmits=0")
	}
	h.Run("ip", "link", "set", "lo", "up")
	return h
}

func (n *Net) link(h *Host) string {
	n.t.Helper()
	n.n++
	dev := fmt.Sprintf("v%d", n.n)
	n.Node.Cable(dev, h, "eth0")
	return dev
}

// Cable joins the host to another by a veth pair.
func (h *Host) Cable(dev string, other *Host, otherDev string) {
	h.t.Helper()
	run(h.t, "ip", "link", "add", dev, "netns", h.name, "type", "veth", "peer", "name", otherDev, "netns", other.name)
	h.Run("ip", "link", "set", dev, "up")
	other.Run("ip", "link", "set", otherDev, "up")
}

// Pod adds a pod the way the CNI plugin ptp does.
func (n *Net) Pod(addr string) *Host {
	n.t.Helper()
	h := n.host("pod" + strings.ReplaceAll(addr, ".", "-"))
	dev := n.link(h)
	h.Addr = netip.MustParseAddr(n.IP(addr))
	n.address(n.Node, Gateway, 32, dev)
	n.route(n.Node, addr, "dev", dev)
	n.address(h, addr, 32, "eth0")
	n.route(h, Gateway, "dev", "eth0")
	n.route(h, "default", "via", Gateway)
	return h
}

// Outside adds a host on a /24 link of its own; the node's address there ends in 1, and the host routes everything over it.
func (n *Net) Outside(addr string) (host *Host, nodeAddr netip.Addr) {
	n.t.Helper()
	h := n.host("out" + strings.ReplaceAll(addr, ".", "-"))
	dev := n.link(h)
	four := netip.MustParseAddr(addr).As4()
	four[3] = 1
	gateway := netip.AddrFrom4(four).String()
	h.Addr, nodeAddr = netip.MustParseAddr(n.IP(addr)), netip.MustParseAddr(n.IP(gateway))
	n.address(n.Node, gateway, 24, dev)
	n.address(h, addr, 24, "eth0")
	n.route(h, "default", "via", gateway)
	if !n.Node.Addr.IsValid() {
		n.Node.Addr = nodeAddr
		n.route(n.Node, "default", "via", addr)
	}
	return h, nodeAddr
}

// Do runs f on a thread inside the namespace. Sockets that f opens stay there.
func (h *Host) Do(f func()) {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its namespace with it
		err := netns.Set(h.ns)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		h.t.Errorf("enter %s: %v", h.name, err)
	}
}

// Run runs a command inside the namespace.
func (h *Host) Run(name string, args ...string) {
	h.t.Helper()
	h.Do(func() { run(h.t, name, args...) })
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// ServeTCP answers every connection with the server's name and the client's address.
func (h *Host) ServeTCP(port int, name string) {
	var l net.Listener
	var err error
	h.Do(func() { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)) })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s", name, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
}

// Connect returns both ends of a TCP connection that the host has with its own address.
func (h *Host) Connect(addr string) (client, server net.Conn) {
	h.t.Helper()
	h.Do(func() {
		l, err := net.Listen("tcp4", net.JoinHostPort(addr, "0"))
		if err != nil {
			h.t.Error(err)
			return
		}
		defer l.Close()
		if client, err = net.Dial("tcp4", l.Addr().String()); err != nil {
			h.t.Error(err)
			return
		}
		if server, err = l.Accept(); err != nil {
			h.t.Error(err)
		}
	})
	if server == nil {
		h.t.FailNow()
	}
	h.t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client, server
}

// ServeUDP answers every packet likewise.
func (h *Host) ServeUDP(port int, name string) {
	var l net.PacketConn
	var err error
	h.Do(func() { l, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port)) })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			fmt.Fprint(discard{l, from}, name, " ", from.(*net.UDPAddr).IP)
		}
	}()
}

type discard struct {
	conn net.PacketConn
	to   net.Addr
}

func (d discard) Write(p []byte) (int, error) { return d.conn.WriteTo(p, d.to) }

// Answer is what a client got: the server's name and the address that it saw, or the error.
type Answer struct {
	Server, Client string
	Err            error
}

// dialTimeout is long for a loopback network and short for a test that waits for a dropped packet.
const dialTimeout = 400 * time.Millisecond

// Ask connects once. network is tcp or udp, or tcp4 or udp4.
func (h *Host) Ask(network string, to netip.AddrPort) Answer {
	var a Answer
	h.Do(func() {
		c, err := net.DialTimeout(network, to.String(), dialTimeout)
		if err != nil {
			a.Err = err
			return
		}
		defer c.Close()
		a = ask(c, network)
	})
	return a
}

func ask(c net.Conn, network string) Answer {
	_ = c.SetDeadline(time.Now().Add(dialTimeout))
	if strings.HasPrefix(network, "udp") {
		if _, err := c.Write([]byte("?")); err != nil {
			return Answer{Err: err}
		}
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		return parse(buf[:n], err)
	}
	data, err := io.ReadAll(c)
	return parse(data, err)
}

func parse(data []byte, err error) Answer {
	server, client, ok := strings.Cut(string(data), " ")
	if !ok && err == nil {
		err = fmt.Errorf("strange answer %q", data)
	}
	return Answer{Server: server, Client: client, Err: err}
}

// KeepUDP opens a connected UDP socket, for tests of what happens to a client that keeps one.
func (h *Host) KeepUDP(to netip.AddrPort) func() Answer {
	var c net.Conn
	var err error
	h.Do(func() { c, err = net.Dial("udp4", to.String()) })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return func() Answer { return ask(c, "udp4") }
}
