// Package announce makes a node answer for addresses of its network that are not its own: they are put on the loopback interface, where
// the kernel answers ARP for them, and neighbours are told that they have moved here.
package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// label marks the addresses that are ours to remove.
const label = "lo:vip"

// Addresses makes the node answer for exactly these addresses, besides its own.
func Addresses(wanted []netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	have, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of lo: %w", err)
	}
	missing := map[netip.Addr]bool{}
	for _, address := range wanted {
		missing[address] = true
	}
	var errs []error
	for i := range have {
		address, _ := netip.AddrFromSlice(have[i].IP.To4())
		switch {
		case have[i].Label != label:
		case slices.Contains(wanted, address):
			delete(missing, address)
		default:
			if err := netlink.AddrDel(lo, &have[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				errs = append(errs, fmt.Errorf("give up %s: %w", address, err))
			}
		}
	}
	for address := range maps.Keys(missing) {
		entry := &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(32, 32)}, Label: label}
		if err := netlink.AddrAdd(lo, entry); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("take %s: %w", address, err))
			continue
		}
		if err := tell(address); err != nil {
			errs = append(errs, fmt.Errorf("announce %s: %w", address, err))
		}
	}
	return errors.Join(errs...)
}

// tell sends a gratuitous ARP for an address out of every interface whose network it is in: neighbours that knew another node for it
// change over at once.
func tell(address netip.Addr) error {
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	for i := range links {
		if links[i].Flags&net.FlagLoopback != 0 || links[i].Flags&net.FlagUp == 0 || len(links[i].HardwareAddr) != 6 || !reaches(&links[i], address) {
			continue
		}
		if err := send(&links[i], gratuitous(links[i].HardwareAddr, address)); err != nil {
			return fmt.Errorf("%s: %w", links[i].Name, err)
		}
	}
	return nil
}

func reaches(link *net.Interface, address netip.Addr) bool {
	addresses, err := link.Addrs()
	if err != nil {
		return false
	}
	for _, a := range addresses {
		if network, ok := a.(*net.IPNet); ok && network.Contains(address.AsSlice()) {
			return true
		}
	}
	return false
}

// gratuitous is an ARP request of an address for itself (RFC 5227, section 3).
func gratuitous(from net.HardwareAddr, address netip.Addr) []byte {
	packet := []byte{0, 1, 8, 0, 6, 4, 0, 1} // Ethernet, IPv4, their lengths, request
	ip := address.As4()
	packet = append(append(packet, from...), ip[:]...)
	return append(append(packet, make([]byte, 6)...), ip[:]...)
}

func send(link *net.Interface, packet []byte) error {
	protocol := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ARP)) // as the wire has it
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(socket)
	everybody := &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	return unix.Sendto(socket, packet, 0, everybody)
}
