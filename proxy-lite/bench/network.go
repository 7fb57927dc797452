package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The addresses of the network: the server answers at every one of its range.
const (
	nodeIP      = "192.0.2.10"
	podCIDR     = "10.128.0.0/9"
	serverRange = "10.128.0.0/10"
	gatewayIP   = "10.255.0.1"
	serverIP    = "10.255.0.2"
	askerIP     = "10.255.0.3"
)

// node is this network namespace, with two pods that are processes of ours.
type node struct {
	orders  *json.Encoder
	answers *json.Decoder
}

// newNode makes the network: an uplink that leads nowhere, a server and one who asks, both on routed veth pairs.
func newNode() (*node, error) {
	if err := up(&netlink.Handle{}, "lo"); err != nil {
		return nil, err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return nil, err
	}
	server := again(serveCommand)
	if err := server.Start(); err != nil {
		return nil, err
	}
	uplink := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "nowhere", PeerNamespace: netlink.NsPid(server.Process.Pid)}
	if err := netlink.LinkAdd(uplink); err != nil {
		return nil, err
	}
	if err := configure(&netlink.Handle{}, "uplink", nodeIP+"/24", route("0.0.0.0/0", "")); err != nil {
		return nil, err
	}
	asker := again(askCommand)
	in, err := asker.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := asker.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := asker.Start(); err != nil {
		return nil, err
	}
	if err := pod(server.Process.Pid, "server", serverIP); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	if err := pod(asker.Process.Pid, "asker", askerIP); err != nil {
		return nil, fmt.Errorf("asker: %w", err)
	}
	link, err := netlink.LinkByName("server")
	if err != nil {
		return nil, err
	}
	all := route(serverRange, serverIP)
	all.LinkIndex = link.Attrs().Index
	return &node{json.NewEncoder(in), json.NewDecoder(out)}, netlink.RouteAdd(all)
}

// ask lets the pod send requests.
func (n *node) ask(o order) (kept, opened rate, err error) {
	var answer [2]rate
	if err := n.orders.Encode(o); err != nil {
		return kept, opened, err
	}
	err = n.answers.Decode(&answer)
	return answer[0], answer[1], err
}

// pod links a process's namespace with this one.
func pod(pid int, name, addr string) error {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	if err := configure(&netlink.Handle{}, name, gatewayIP+"/32", route(addr+"/32", "")); err != nil {
		return err
	}
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer inside.Close()
	if err := up(inside, "lo"); err != nil {
		return err
	}
	if err := configure(inside, "eth0", addr+"/32", route(gatewayIP+"/32", ""), route("0.0.0.0/0", gatewayIP)); err != nil {
		return err
	}
	if addr != serverIP {
		return nil
	}
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	every := route(serverRange, "")
	every.LinkIndex, every.Type, every.Table, every.Scope = lo.Attrs().Index, unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, netlink.SCOPE_HOST
	return inside.RouteAdd(every)
}

// route is a route over a link that is yet to be named, through a gateway or directly.
func route(to, gateway string) *netlink.Route {
	_, dst, _ := net.ParseCIDR(to) // a constant
	if gateway == "" {
		return &netlink.Route{Dst: dst, Scope: netlink.SCOPE_LINK}
	}
	return &netlink.Route{Dst: dst, Gw: net.ParseIP(gateway), Flags: int(netlink.FLAG_ONLINK)}
}

func up(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return h.LinkSetUp(link)
}

func configure(h *netlink.Handle, name, addr string, routes ...*netlink.Route) error {
	if err := up(h, name); err != nil {
		return err
	}
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	parsed, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	if err := h.AddrAdd(link, parsed); err != nil {
		return err
	}
	for _, r := range routes {
		r.LinkIndex = link.Attrs().Index
		if err := h.RouteAdd(r); err != nil {
			return fmt.Errorf("route %s: %w", r, err)
		}
	}
	return nil
}

// kernel hears what is written into nftables, whoever does it.
type kernel struct{ *nl.NetlinkSocket }

// longest is how long a change may take.
const longest = 2 * time.Minute

func watchKernel() (kernel, error) {
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return kernel{}, err
	}
	if err := socket.SetReceiveBufferSize(64<<20, true); err != nil {
		return kernel{}, err
	}
	return kernel{socket}, socket.SetReceiveTimeout(&unix.Timeval{Sec: int64(longest / time.Second)})
}

// has returns when the kernel told of something that holds the address: it does so once a transaction is in force. The address stands in
// elements of maps and in rules as four bytes.
func (k kernel) has(addr netip.Addr) (time.Time, error) {
	raw := addr.AsSlice()
	for {
		messages, _, err := k.Receive()
		if err != nil {
			return time.Time{}, err
		}
		now := time.Now()
		for _, m := range messages {
			if bytes.Contains(m.Data, raw) {
				return now, nil
			}
		}
	}
}
