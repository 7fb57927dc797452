package podnetwork

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/proxy-lite/internal/testnet"
	"keelson.dev/proxy-lite/nftables"
	"keelson.dev/proxy-lite/rules"
)

// world is three nodes, of which a and c share a link, and a router that knows nothing of pods between them and b.
type world struct {
	t       *testing.T
	tunnel  tunnel
	router  *testnet.Net
	nodes   cache.Indexer
	a, b, c *machine
}

type machine struct {
	*testnet.Net
	name   string
	pod    *testnet.Host
	syncer *syncer
}

func newWorld(t *testing.T, first *testnet.Net, tunnel tunnel) *world {
	w := &world{t: t, tunnel: tunnel, router: first.Beside("router"), nodes: cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)}
	w.needVXLAN()
	for _, subnet := range []string{"1", "2"} {
		w.router.Node.Run("ip", "link", "add", "br"+subnet, "type", "bridge")
		w.router.Node.Run("ip", "link", "set", "br"+subnet, "up")
		w.router.Node.Run("ip", "addr", "add", first.CIDR("192.168."+subnet+".254/24"), "dev", "br"+subnet)
	}
	w.a = w.machine(first, "a", "1", "192.168.1.1")
	w.b = w.machine(first.Beside("b"), "b", "2", "192.168.2.1")
	w.c = w.machine(first.Beside("c"), "c", "1", "192.168.1.3")
	return w
}

// needVXLAN skips the test on a kernel that has none.
func (w *world) needVXLAN() {
	w.t.Helper()
	var err error
	w.router.Node.Do(func() {
		if _, err = w.tunnel.makeDevice(netip.MustParseAddr(w.router.IP("192.168.1.254")), ethernetMTU); err == nil {
			err = w.tunnel.close()
		}
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		w.t.Skip("this kernel has no VXLAN (CONFIG_VXLAN)")
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// machine puts a node on a subnet of the router, with a pod CIDR and a pod that have its letter's number.
func (w *world) machine(net *testnet.Net, name, subnet, address string) *machine {
	w.t.Helper()
	m := &machine{Net: net, name: name}
	net.Node.Cable("eth0", w.router.Node, "to-"+name)
	w.router.Node.Run("ip", "link", "set", "to-"+name, "master", "br"+subnet)
	net.Node.Run("ip", "addr", "add", net.CIDR(address+"/24"), "dev", "eth0")
	net.Node.Run("ip", "route", "add", "default", "via", net.IP("192.168."+subnet+".254"))
	net.Node.Addr = netip.MustParseAddr(net.IP(address))
	number := int(name[0]-'a') + 1
	w.announce(m, address, fmt.Sprintf("10.244.%d.0/24", number))
	m.pod = net.Pod(fmt.Sprintf("10.244.%d.2", number))
	m.pod.ServeTCP(8080, name)
	m.syncer = w.syncer(name)
	services, err := nftables.New(net.V6, rules.Config{
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix(net.CIDR("10.244.0.0/16"))}, MasqueradeEgress: true,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	net.Node.Do(func() { err = services.Update(w.t.Context()) })
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) syncer(name string) *syncer {
	return &syncer{
		config: Config{NodeName: name, ConfDir: w.t.TempDir(), DataDir: w.t.TempDir()}, nodes: corelisters.NewNodeLister(w.nodes),
	}
}

// announce tells all nodes of one.
func (w *world) announce(m *machine, address, cidr string) {
	w.t.Helper()
	if err := w.nodes.Update(node(m.name, m.IP(address), m.CIDR(cidr))); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) sync(machines ...*machine) {
	w.t.Helper()
	for _, m := range machines {
		var err error
		m.Node.Do(func() { err = m.syncer.sync() })
		if err != nil {
			w.t.Errorf("node %s: %v", m.name, err)
		}
	}
}

// state is all that the pod network has made on a node, in its order.
func (w *world) state(m *machine) []string {
	w.t.Helper()
	var out []string
	m.Node.Do(func() {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			w.t.Error(err)
		}
		for _, route := range routes {
			if route.Gw != nil {
				out = append(out, fmt.Sprintf("route %s by %s", route.Dst, route.Gw))
			}
		}
		device, err := netlink.LinkByName(w.tunnel.device)
		if err != nil {
			return
		}
		for _, family := range []int{w.tunnel.family, unix.AF_BRIDGE} {
			entries, err := netlink.NeighList(device.Attrs().Index, family)
			if err != nil {
				w.t.Error(err)
			}
			for _, entry := range entries {
				if entry.IP != nil && entry.State&unix.NUD_NOARP == 0 {
					out = append(out, fmt.Sprintf("%s is %s", entry.HardwareAddr, entry.IP))
				}
			}
		}
		addresses, err := netlink.AddrList(device, w.tunnel.family)
		if err != nil {
			w.t.Error(err)
		}
		for _, address := range addresses {
			if !address.IP.IsLinkLocalUnicast() {
				out = append(out, fmt.Sprintf("own end %s", address.IP))
			}
		}
	})
	slices.Sort(out)
	return out
}

func (w *world) expect(m *machine, want ...string) {
	w.t.Helper()
	for i := range want {
		words := strings.Fields(want[i])
		for j, word := range words {
			if _, err := netip.ParsePrefix(word); err == nil {
				words[j] = m.CIDR(word)
			} else {
				words[j] = m.IP(word)
			}
		}
		want[i] = strings.Join(words, " ")
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, w.state(m)); diff != "" {
		w.t.Errorf("node %s: -want +got:\n%s", m.name, diff)
	}
}

// mac is the link-layer address of the end on a node with that address.
func (w *world) mac(address string) string {
	return hardware(netip.MustParseAddr(w.router.IP(address))).String()
}

// tunnelled counts the packets that a node has sent through its tunnel.
func (w *world) tunnelled(m *machine) (packets uint64) {
	m.Node.Do(func() {
		if device, err := netlink.LinkByName(w.tunnel.device); err == nil {
			packets = device.Attrs().Statistics.TxPackets
		}
	})
	return packets
}

// fragments counts the fragments that a host has made.
func fragments(t *testing.T, h *testnet.Host) (count string) {
	t.Helper()
	h.Do(func() {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			t.Error(err)
			return
		}
		lines := strings.SplitN(string(text), "\n", 3)
		count = strings.Fields(lines[1])[slices.Index(strings.Fields(lines[0]), "FragCreates")]
	})
	return count
}

// echo sends as much through a TCP connection as fills many packets, and wants it back.
func echo(t *testing.T, from, to *testnet.Host) {
	t.Helper()
	payload := make([]byte, 8<<20)
	_, _ = rand.Read(payload)
	var listener net.Listener
	var err error
	to.Do(func() { listener, err = net.Listen("tcp", net.JoinHostPort(to.Addr.String(), "0")) })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if c, err := listener.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	var c net.Conn
	from.Do(func() { c, err = net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second) })
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	go func() {
		_, _ = c.Write(payload)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	if back, err := io.ReadAll(c); err != nil || !bytes.Equal(back, payload) {
		t.Errorf("%d of %d bytes came back: %v", len(back), len(payload), err)
	}
}

func (w *world) client(from, to *testnet.Host, want netip.Addr) {
	w.t.Helper()
	answer := from.Ask("tcp", netip.AddrPortFrom(to.Addr, 8080))
	if answer.Err != nil || answer.Client != want.String() {
		w.t.Errorf("a client at %s was seen as %q (%v)", want, answer.Client, answer.Err)
	}
}

// TestVXLAN takes a network of nodes through what happens to one, one thing after the other.
func TestVXLAN(t *testing.T) {
	run := func(t *testing.T, first *testnet.Net, tunnel tunnel) {
		w := newWorld(t, first, tunnel)
		w.sync(w.a, w.b, w.c)
		for _, step := range []func(*world){
			(*world).start, (*world).oldPods, (*world).newPods, (*world).sameLink, (*world).restart, (*world).renumber, (*world).leave, (*world).everyNode,
		} {
			step(w)
		}
	}
	t.Run("IPv4", func(t *testing.T) { run(t, testnet.New(t), tunnels[0]) })
	t.Run("IPv6", func(t *testing.T) { run(t, testnet.NewV6(t), tunnels[1]) })
}

func (w *world) start() {
	w.expect(w.a,
		"own end 10.244.1.0", "route 10.244.2.0/24 by 10.244.2.0", "route 10.244.3.0/24 by 192.168.1.3",
		w.mac("192.168.2.1")+" is 10.244.2.0", w.mac("192.168.2.1")+" is 192.168.2.1")
	text, err := os.ReadFile(filepath.Join(w.a.syncer.config.ConfDir, confName))
	if want := fmt.Sprintf(`"mtu": %d`, w.mtu()); err != nil || !bytes.Contains(text, []byte(want)) {
		w.t.Errorf("want %s in the CNI configuration (%v):\n%s", want, err, text)
	}
}

func (w *world) mtu() int { return ethernetMTU - w.tunnel.overhead }

// oldPods know nothing of the tunnel, and learn its MTU on the way.
func (w *world) oldPods() { echo(w.t, w.a.pod, w.b.pod) }

// newPods have the MTU that the CNI configuration gives. They reach each other as themselves, nodes reach them as their end of the tunnel,
// and the world sees nodes.
func (w *world) newPods() {
	for _, m := range []*machine{w.a, w.b, w.c} {
		m.Node.Run("ip", "link", "set", "v1", "mtu", fmt.Sprint(w.mtu()))
		m.pod.Run("ip", "link", "set", "eth0", "mtu", fmt.Sprint(w.mtu()))
	}
	echo(w.t, w.a.pod, w.b.pod)
	echo(w.t, w.b.pod, w.a.pod)
	w.client(w.a.pod, w.b.pod, w.a.pod.Addr)
	w.client(w.b.pod, w.c.pod, w.b.pod.Addr)
	w.client(w.a.Node, w.b.pod, end(netip.MustParsePrefix(w.a.CIDR("10.244.1.0/24"))))
	w.router.Node.ServeTCP(8080, "router")
	w.router.Node.Addr = netip.MustParseAddr(w.router.IP("192.168.1.254"))
	w.client(w.a.pod, w.router.Node, w.a.Node.Addr)
	for _, h := range []*testnet.Host{w.a.Node, w.b.Node, w.router.Node} {
		if n := fragments(w.t, h); n != "0" {
			w.t.Errorf("%s fragments were made", n)
		}
	}
}

// sameLink needs no tunnel.
func (w *world) sameLink() {
	before := w.tunnelled(w.a)
	echo(w.t, w.a.pod, w.c.pod)
	if after := w.tunnelled(w.a); after != before {
		w.t.Errorf("%d packets for a node on the same link were tunnelled", after-before)
	}
}

// restart leaves what is right, and removes what is not.
func (w *world) restart() {
	device, state := w.device(w.a), w.state(w.a)
	stranger := Peer{PodCIDR: netip.MustParsePrefix(w.a.CIDR("10.244.9.0/24")), Gateway: netip.MustParseAddr(w.a.IP("192.168.2.9"))}
	w.a.Node.Do(func() {
		for _, entry := range w.tunnel.neighbours(device, []Peer{stranger}) {
			if err := netlink.NeighSet(&entry); err != nil {
				w.t.Error(err)
			}
		}
	})
	if len(w.state(w.a)) != len(state)+2 {
		w.t.Errorf("the strangers are not there: %v", w.state(w.a))
	}
	w.a.syncer = w.syncer("a")
	w.sync(w.a)
	if diff := cmp.Diff(state, w.state(w.a)); diff != "" || w.device(w.a) != device {
		w.t.Errorf("a restart changed the device from %d to %d, or: -want +got:\n%s", device, w.device(w.a), diff)
	}
}

// renumber gives a node another address and another pod CIDR.
func (w *world) renumber() {
	w.b.Node.Run("ip", "addr", "add", w.b.CIDR("192.168.2.7/24"), "dev", "eth0")
	w.announce(w.b, "192.168.2.7", "10.244.5.0/24")
	moved := w.b.Pod("10.244.5.2")
	w.sync(w.a, w.b, w.c)
	w.expect(w.a,
		"own end 10.244.1.0", "route 10.244.5.0/24 by 10.244.5.0", "route 10.244.3.0/24 by 192.168.1.3",
		w.mac("192.168.2.7")+" is 10.244.5.0", w.mac("192.168.2.7")+" is 192.168.2.7")
	w.expect(w.b,
		"own end 10.244.5.0", "route 10.244.1.0/24 by 10.244.1.0", "route 10.244.3.0/24 by 10.244.3.0",
		w.mac("192.168.1.1")+" is 10.244.1.0", w.mac("192.168.1.1")+" is 192.168.1.1",
		w.mac("192.168.1.3")+" is 10.244.3.0", w.mac("192.168.1.3")+" is 192.168.1.3")
	echo(w.t, w.a.pod, moved)
}

// leave takes a node away, of which nothing may stay.
func (w *world) leave() {
	if err := w.nodes.Delete(node("b", "")); err != nil {
		w.t.Fatal(err)
	}
	w.sync(w.a, w.c)
	w.expect(w.a, "route 10.244.3.0/24 by 192.168.1.3")
	w.expect(w.c, "route 10.244.1.0/24 by 192.168.1.1")
}

// everyNode is reached through the tunnel, and then directly again.
func (w *world) everyNode() {
	for _, always := range []bool{true, false} {
		w.a.syncer.config.VXLAN, w.c.syncer.config.VXLAN = always, always
		w.sync(w.a, w.c)
		before := w.tunnelled(w.a)
		echo(w.t, w.a.pod, w.c.pod)
		if tunnelled := w.tunnelled(w.a) > before; tunnelled != always {
			w.t.Errorf("always: %t, and packets were tunnelled: %t", always, tunnelled)
		}
	}
	w.expect(w.a, "route 10.244.3.0/24 by 192.168.1.3")
}

func (w *world) device(m *machine) (index int) {
	m.Node.Do(func() {
		if device, err := netlink.LinkByName(w.tunnel.device); err == nil {
			index = device.Attrs().Index
		}
	})
	return index
}
